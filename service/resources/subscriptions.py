"""/api/subscriptions: create, list, get, change and remove subscriptions; rotate the secret; redrive dead letters."""

from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query
from schemas.api_responses import RedriveReceipt
from schemas.subscriptions import NewSubscription, Subscription, SubscriptionChange, SubscriptionWithSecret
from service.http.auth import caller_name
from service.http.operation import Operation, ResponseSpec
from service.http.responses import SECURITY_HEADERS
from service.http.threadpool import ThreadPool
from service.subscriptions.manage import SUBSCRIPTIONS, SubscriptionManager

COLLECTION = "/api/subscriptions"
ITEM = "/api/subscriptions/{id}"


def operations(manager: SubscriptionManager, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of subscriptions."""

    async def delete(request: Request, _query: object) -> Response:
        await threads.run(manager.delete, request.path_params["id"], who=caller_name(request))
        return Response(status_code=204, headers=SECURITY_HEADERS)

    return (
        SUBSCRIPTIONS.operation(
            manager.list_page,
            threads,
            path=COLLECTION,
            operation_id="listSubscriptions",
            summary="List the subscriptions, ordered by name.",
            access="admin",
        ),
        Operation(
            method="POST",
            path=COLLECTION,
            operation_id="createSubscription",
            summary="Create a subscription: events are pushed to its URL. Only this response shows the signing secret.",
            access="admin",
            query_model=Query,
            body_model=NewSubscription,
            responses=(
                ResponseSpec(
                    status=201,
                    description="The subscription; it gets events from now on.",
                    model=SubscriptionWithSecret,
                ),
            ),
            problem_statuses=(409,),
            handler=threads.handler(lambda request, new: manager.create(new, who=caller_name(request)), status=201),
        ),
        Operation(
            method="GET",
            path=ITEM,
            operation_id="getSubscription",
            summary="Get one subscription.",
            access="admin",
            query_model=Query,
            responses=(ResponseSpec(description="The subscription.", model=Subscription),),
            handler=threads.handler(lambda request, _query: manager.get(request.path_params["id"])),
        ),
        Operation(
            method="PATCH",
            path=ITEM,
            operation_id="changeSubscription",
            summary="Pause a subscription, make it active again, or change its URL or types.",
            access="admin",
            query_model=Query,
            body_model=SubscriptionChange,
            responses=(ResponseSpec(description="The changed subscription.", model=Subscription),),
            problem_statuses=(409,),
            handler=threads.handler(
                lambda request, change: manager.update(request.path_params["id"], change, who=caller_name(request))
            ),
        ),
        Operation(
            method="DELETE",
            path=ITEM,
            operation_id="removeSubscription",
            summary="Delete a subscription and all its deliveries.",
            access="admin",
            query_model=Query,
            responses=(ResponseSpec(status=204, description="The subscription is deleted.", media_type=None),),
            handler=delete,
        ),
        Operation(
            method="POST",
            path=ITEM + "/rotate",
            operation_id="rotateSubscription",
            summary="Generate a new secret, shown only in this response. For a day, the previous secret signs as well.",
            access="admin",
            query_model=Query,
            responses=(
                ResponseSpec(description="The subscription with its new secret.", model=SubscriptionWithSecret),
            ),
            problem_statuses=(409,),
            handler=threads.handler(
                lambda request, _query: manager.rotate_secret(request.path_params["id"], who=caller_name(request))
            ),
        ),
        Operation(
            method="POST",
            path=ITEM + "/redrive",
            operation_id="redriveSubscription",
            summary="Retry the dead deliveries of a subscription.",
            access="admin",
            query_model=Query,
            responses=(ResponseSpec(description="The number of retried deliveries.", model=RedriveReceipt),),
            handler=threads.handler(
                lambda request, _query: manager.redrive(request.path_params["id"], who=caller_name(request))
            ),
        ),
    )
