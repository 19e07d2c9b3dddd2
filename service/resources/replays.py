"""Replays: the operations on them."""

from schemas.api_queries import Query, ReplayQuery
from schemas.api_responses import ReplayPage
from schemas.replays import NewReplay, Replay
from service.http.auth import who_of
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.replay.manage import ReplayManager

ONE = "/api/replays/{id}"


def operations(replays: ReplayManager, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return what can be asked of the API."""
    return (
        Operation(
            method="GET",
            path="/api/replays",
            name="listReplays",
            summary="The replays, in the order in which they were started.",
            need="read",
            query=ReplayQuery,
            answers=(ResponseSpec(description="A page of replays.", shape=ReplayPage),),
            handle=threads.handler(lambda _request, query: replays.find(query)),
        ),
        Operation(
            method="POST",
            path="/api/replays",
            name="startReplay",
            summary="Have the connections of stored webhooks read again, or have events sent again to a subscription.",
            need="admin",
            query=Query,
            takes=NewReplay,
            answers=(ResponseSpec(status=202, description="It is taken up within seconds.", shape=Replay),),
            problems=(404,),
            handle=threads.handler(lambda request, wish: replays.start(wish, who=who_of(request)), status=202),
        ),
        Operation(
            method="GET",
            path=ONE,
            name="getReplay",
            summary="One replay, and how far it has come.",
            need="read",
            query=Query,
            answers=(ResponseSpec(description="The replay.", shape=Replay),),
            handle=threads.handler(lambda request, _query: replays.get(request.path_params["id"])),
        ),
        Operation(
            method="POST",
            path=ONE + "/stop",
            name="stopReplay",
            summary="Stop it; what it has asked for is done all the same.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(description="The replay as it is now.", shape=Replay),),
            problems=(409,),
            handle=threads.handler(
                lambda request, _query: replays.stop(request.path_params["id"], who=who_of(request))
            ),
        ),
        Operation(
            method="POST",
            path=ONE + "/resume",
            name="resumeReplay",
            summary="Have the service go on with it where it was.",
            need="admin",
            query=Query,
            answers=(ResponseSpec(description="The replay as it is now.", shape=Replay),),
            problems=(409,),
            handle=threads.handler(
                lambda request, _query: replays.resume(request.path_params["id"], who=who_of(request))
            ),
        ),
    )
