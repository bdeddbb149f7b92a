"""The versions that this process serves, and which of a model's is its default."""

from collections.abc import Callable, Sequence

from marina.engines.gateway.answer_streams import Activity
from marina.engines.gateway.failures import ModelNotFound, NoWorkers, VersionNotFound
from marina.engines.gateway.served_model import Batch, ServedModel


class Models:
    """A table of ServedModels. Used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._defaults: dict[str, ServedModel] = {}
        self._idle: dict[str, set[str]] = {}  # registered and not loaded: name -> versions
        self.activity = Activity()
        # called with the batches that were answered lately, a model at a time
        self.observer: Callable[[ServedModel, Sequence[Batch]], None] | None = None

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A version, by default the default one.

        Raises ModelNotFound, VersionNotFound, or NoWorkers for one that is registered and not loaded.
        """
        try:
            return self._defaults[name] if version is None else self._versions[name][version]
        except KeyError:
            idle = self._idle.get(name, ())
            if version in idle or (version is None and idle):
                raise NoWorkers(name) from None
            if version is None or name not in self._versions:
                raise ModelNotFound(name) from None
            raise VersionNotFound(name, version) from None

    def add(self, model: ServedModel) -> None:
        """Serve `model` from now on; the first version of a name becomes its default.

        Raises ValueError for a version that is served already.
        """
        versions = self._versions.setdefault(model.name, {})
        if model.version in versions:
            raise ValueError(f"{model.name} {model.version} is served already")
        versions[model.version] = model
        self._idle.get(model.name, set()).discard(model.version)
        self._defaults.setdefault(model.name, model)
        model.observer = self._observe
        model.lane.activity = self.activity

    def set_default(self, name: str, version: str) -> None:
        """Let calls without a version reach this one. Raises ModelNotFound or VersionNotFound."""
        self._defaults[name] = self.get(name, version)

    def set_idle(self, name: str, version: str, is_default: bool) -> None:
        """A version is registered and not loaded: calls of it are told so."""
        self._idle.setdefault(name, set()).add(version)
        if is_default:
            self._defaults.pop(name, None)

    async def remove(self, name: str, version: str) -> None:
        """Take a version from the table, answer what it has accepted, and close it.

        Where it was the default, the version that was added last becomes it. Raises ModelNotFound or
        VersionNotFound.
        """
        if version in self._idle.get(name, ()):
            self._idle[name].discard(version)
            return
        model = self.get(name, version)
        del self._versions[name][version]
        if self._defaults[name] is model:
            del self._defaults[name]
            for other in self._versions[name].values():
                self._defaults[name] = other
        if not self._versions[name]:
            del self._versions[name]
        await model.drain()
        model.close()

    def names(self) -> list[str]:
        """The models, in the order in which they were added."""
        return list(self._versions)

    def versions(self, name: str) -> list[str]:
        """The versions of a model, in the order in which they were added. Raises ModelNotFound."""
        self.get(name)
        return list(self._versions[name])

    def default(self, name: str) -> str:
        """The version that calls without one reach. Raises ModelNotFound."""
        return self.get(name).version

    def _observe(self, model: ServedModel, batches: Sequence[Batch]) -> None:
        if self.observer:
            self.observer(model, batches)
