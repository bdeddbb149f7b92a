"""What a server says of itself and its models: routes of the inference API that ask for no answer.

Health needs no token, since load balancers and orchestrators have none; everything else does.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from marina.engines.gateway.failures import Failure, MethodNotAllowed, ResourceNotFound, reply_to
from marina.engines.gateway.jobs.routes import job_routes
from marina.engines.gateway.open_inference import model_metadata, server_metadata, with_error
from marina.packaging.openapi import merged, of_description

if TYPE_CHECKING:
    from marina.engines.gateway.app import Gateway
    from marina.engines.gateway.served_model import ServedModel

Page = Callable[[Request], dict[str, Any]]
V2_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def make_routes(gateway: "Gateway") -> Starlette:
    """The routes beside those of `targets`, as an ASGI app."""
    pages = Pages(gateway)
    routes = [
        _health(gateway, "/ping", lambda ready: {"status": "Healthy" if ready else "Unhealthy"}),
        _health(gateway, "/v2/health/ready", lambda ready: {"ready": ready}),
        _health(gateway, "/v2/health/live", lambda _: {"live": True}, always=True),
        *(
            _behind_token(gateway, path, page)
            for path, page in (
                ("/v2", pages.server),
                *((path, pages.v2_model) for path in V2_MODEL),
                *((f"{path}/ready", pages.model_ready) for path in V2_MODEL),
                ("/v1/models", pages.v1_models),
                ("/v1/models/{name}", pages.model_ready),
                ("/api-description", pages.document),
            )
        ),
        _behind_token(gateway, "/", pages.document, "OPTIONS"),
        _behind_token(gateway, "/predictions/{name}", pages.model_document, "OPTIONS"),
        _behind_token(gateway, "/predictions/{name}/{version}", pages.model_document, "OPTIONS"),
        *(job_routes(gateway, gateway.jobs) if gateway.jobs else ()),
    ]

    def no_route(request: Request, error: Exception) -> Response:
        allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
        methods = ", ".join(sorted(filter(None, allowed.split(", "))))
        return _refused(gateway, request, MethodNotAllowed(methods) if methods else ResourceNotFound())

    def refused(request: Request, error: Exception) -> Response:
        return _refused(gateway, request, error)

    return Starlette(routes=routes, exception_handlers={Failure: refused, HTTPException: no_route})


class Pages:
    """What the routes behind a token answer. Raises ModelNotFound or VersionNotFound."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway, self.models = gateway, gateway.models

    def server(self, _: Request) -> dict[str, Any]:
        """Version 2's metadata of the server."""
        return server_metadata()

    def v1_models(self, _: Request) -> dict[str, Any]:
        """Version 1's list of models."""
        return {"models": self.models.names()}

    def v2_model(self, request: Request) -> dict[str, Any]:
        """Version 2's metadata of a model."""
        model = self._model(request)
        return model_metadata(model.predictor, self.models.versions(model.name))

    def model_ready(self, request: Request) -> dict[str, Any]:
        """Whether a model answers: one that is here has answered its golden samples."""
        return {"name": self._model(request).name, "ready": True}

    def document(self, _: Request) -> dict[str, Any]:
        """The OpenAPI document of all models, in their default versions."""
        models = [self.models.get(name) for name in self.models.names()]
        return merged([of_description(model.predictor.describe()) for model in models])

    def model_document(self, request: Request) -> dict[str, Any]:
        """The OpenAPI document of one model."""
        document = of_description(self._model(request).predictor.describe())
        return {**document, "servers": [{"url": "/"}]}  # wherever it came from

    def _model(self, request: Request) -> "ServedModel":
        return self.models.get(request.path_params["name"], request.path_params.get("version"))


def _health(
    gateway: "Gateway", path: str, content: Callable[[bool], dict[str, Any]], always: bool = False
) -> Route:
    async def endpoint(request: Request) -> Response:  # a plain function would be called in a thread
        ready = always or gateway.is_ready
        return _response(gateway, request, content(ready), 200 if ready else 503)

    return Route(path, endpoint)


def _behind_token(gateway: "Gateway", path: str, page: Page, method: str = "GET") -> Route:
    async def endpoint(request: Request) -> Response:
        gateway.tokens.check(request.headers.get("authorization", ""), "inference")
        return _response(gateway, request, page(request))

    return Route(path, endpoint, methods=[method])


def _refused(gateway: "Gateway", request: Request, error: Exception) -> Response:
    """The answer to a call that raised a Failure."""
    request_id = gateway.request_id(request.headers)
    reply = reply_to(error, request_id)
    if request.url.path.startswith("/v2"):
        reply = with_error(reply)
    more = error.headers if isinstance(error, Failure) else ()
    headers = {name.decode(): value.decode() for name, value in more}
    headers |= {"content-type": reply.content_type, "x-request-id": request_id}
    return Response(reply.content, int(reply.status), headers)


def _response(gateway: "Gateway", request: Request, content: Any, status: int = 200) -> Response:
    headers = {"x-request-id": gateway.request_id(request.headers)}
    return Response(json.dumps(content), status, headers, "application/json")
