"""/api/replays: create, list, get, stop and resume replays of stored webhooks or events."""

from schemas.api_queries import Query
from schemas.replays import NewReplay, Replay
from service.http.auth import caller_name
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.replay.manage import REPLAYS, ReplayManager

COLLECTION = "/api/replays"
ITEM = "/api/replays/{id}"


def operations(manager: ReplayManager, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of replays."""
    return (
        REPLAYS.operation(
            manager.list_page,
            threads,
            path=COLLECTION,
            operation_id="listReplays",
            summary="List the replays, oldest first.",
        ),
        Operation(
            method="POST",
            path=COLLECTION,
            operation_id="startReplay",
            summary="Start a replay: read the connections of stored webhooks again, or push events again.",
            access="admin",
            query_model=Query,
            body_model=NewReplay,
            responses=(ResponseSpec(status=202, description="The replay; it begins within seconds.", model=Replay),),
            problem_statuses=(404,),
            handler=threads.handler(lambda request, new: manager.create(new, who=caller_name(request)), status=202),
        ),
        Operation(
            method="GET",
            path=ITEM,
            operation_id="getReplay",
            summary="Get one replay with its progress.",
            access="read",
            query_model=Query,
            responses=(ResponseSpec(description="The replay.", model=Replay),),
            handler=threads.handler(lambda request, _query: manager.get(request.path_params["id"])),
        ),
        Operation(
            method="POST",
            path=ITEM + "/stop",
            operation_id="stopReplay",
            summary="Stop a replay. Reads and deliveries that it has requested are still done.",
            access="admin",
            query_model=Query,
            responses=(ResponseSpec(description="The stopped replay.", model=Replay),),
            problem_statuses=(409,),
            handler=threads.handler(
                lambda request, _query: manager.stop(request.path_params["id"], who=caller_name(request))
            ),
        ),
        Operation(
            method="POST",
            path=ITEM + "/resume",
            operation_id="resumeReplay",
            summary="Resume a stopped replay where it was.",
            access="admin",
            query_model=Query,
            responses=(ResponseSpec(description="The resumed replay.", model=Replay),),
            problem_statuses=(409,),
            handler=threads.handler(
                lambda request, _query: manager.resume(request.path_params["id"], who=caller_name(request))
            ),
        ),
    )
