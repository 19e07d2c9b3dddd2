"""Subscriptions: the operations on them."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query, SubscriptionQuery
from schemas.api_responses import RedriveReceipt, SubscriptionPage
from schemas.subscriptions import NewSubscription, Subscription, SubscriptionChange, SubscriptionWithSecret
from service.http.auth import who_of
from service.http.operation import Operation, ResponseSpec
from service.http.responses import SAFE
from service.http.threadpool import ThreadPool
from service.subscriptions.manage import SubscriptionManager

ONE = "/api/subscriptions/{id}"


def operations(subscribe: SubscriptionManager, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return what can be asked of the API."""
    return (
        Operation(
            method="GET",
            path="/api/subscriptions",
            name="listSubscriptions",
            summary="The subscriptions, in the order of their names.",
            need="admin",
            query=SubscriptionQuery,
            answers=(ResponseSpec(description="A page of subscriptions.", shape=SubscriptionPage),),
            handle=threads.handler(lambda _request, query: subscribe.find(query)),
        ),
        Operation(
            method="POST",
            path="/api/subscriptions",
            name="createSubscription",
            summary="Have events pushed to a URL; the answer shows the secret that signs them, this once.",
            need="admin",
            query=Query,
            takes=NewSubscription,
            answers=(
                ResponseSpec(status=201, description="It gets events from now on.", shape=SubscriptionWithSecret),
            ),
            problems=(409,),
            handle=threads.handler(lambda request, wish: subscribe.create(wish, who=who_of(request)), status=201),
        ),
        Operation(
            method="GET",
            path=ONE,
            name="getSubscription",
            summary="One subscription.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(description="The subscription.", shape=Subscription),),
            handle=threads.handler(lambda request, _query: subscribe.get(request.path_params["id"])),
        ),
        Operation(
            method="PATCH",
            path=ONE,
            name="changeSubscription",
            summary="Pause it, make it active again, or change its URL or its types.",
            need="admin",
            query=Query,
            takes=SubscriptionChange,
            answers=(ResponseSpec(description="The subscription as it is now.", shape=Subscription),),
            problems=(409,),
            handle=threads.handler(
                lambda request, wish: subscribe.change(request.path_params["id"], wish, who=who_of(request))
            ),
        ),
        Operation(
            method="DELETE",
            path=ONE,
            name="removeSubscription",
            summary="Remove it, with all that it is owed and the record of its deliveries.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(status=204, description="It is gone.", media_type=None),),
            handle=_removing(subscribe, threads),
        ),
        Operation(
            method="POST",
            path=ONE + "/rotate",
            name="rotateSubscription",
            summary="Give it a new secret, shown this once; for a day the one before signs as well.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(description="With its new secret.", shape=SubscriptionWithSecret),),
            problems=(409,),
            handle=threads.handler(
                lambda request, _query: subscribe.rotate(request.path_params["id"], who=who_of(request))
            ),
        ),
        Operation(
            method="POST",
            path=ONE + "/redrive",
            name="redriveSubscription",
            summary="Take its dead deliveries up again.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(description="How many there were.", shape=RedriveReceipt),),
            handle=threads.handler(
                lambda request, _query: subscribe.redrive(request.path_params["id"], who=who_of(request))
            ),
        ),
    )


def _removing(subscribe: SubscriptionManager, threads: ThreadPool) -> Callable[[Request, Any], Awaitable[Response]]:
    async def handle(request: Request, _query: object) -> Response:
        await threads.run(subscribe.remove, request.path_params["id"], who=who_of(request))
        return Response(status_code=204, headers=SAFE)

    return handle
