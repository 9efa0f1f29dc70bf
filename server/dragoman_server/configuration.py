"""From a TOML file, the environment and flags to `Settings`; whatever is wrong is told at once and by its name.

Later sources win: file < environment < flags. Each source is read alone (unknown keys, secrets, relative paths), then
they are merged and the result is validated as a whole.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import types
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from dragoman_server.accounts.tokens import LOGIN_ISSUER
from dragoman_server.providers.vendors import may_be_unsupported, vendor_of_host, vendors
from dragoman_server.settings import AuthSettings, ModelSettings, ProviderSettings, QuirkSettings, Section, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FILE_NAME = "dragoman.toml"
PREFIX = "DRAGOMAN_"
SHORT_NAMES = {
    "DRAGOMAN_HOST": "server.host",
    "DRAGOMAN_PORT": "server.port",
    "DRAGOMAN_GRPC_PORT": "server.grpc_port",
    "DRAGOMAN_DATA_DIR": "server.data_dir",
}
"""Variables with a name of their own; every setting also has its regular one."""
OTHER_VARIABLES = {
    "DRAGOMAN_CONFIG": "Path of the configuration file.",
    "DRAGOMAN_BOOTSTRAP_KEY": "A key that the server accepts from its start on; `env:NAME` and `file:PATH` are read.",
    "DRAGOMAN_API_KEY": "The key that `dragoman chat` sends.",
}
"""Variables that are no settings, with their meaning."""
EMBEDDED = "local"
"""Name of the embedded provider."""
RESERVED = {EMBEDDED: "the embedded model's", "proxy": "what servers are called that requests name"}
"""Names that no configured provider may have, and whose they are."""
MIN_TOKEN_SECRET = 32
"""Fewest bytes of a secret that tokens are signed with."""
_MODEL_FILES = frozenset({"local.model", "local.embedding_model"})


OVER_HTTP = frozenset({"openai_chat", "anthropic_messages", "gemini"})
"""Dialects whose servers are at a URL."""


class ConfigurationError(Exception):
    """The configuration cannot be used.

    Attributes:
        problems: All that is wrong, each with its source, its dotted path and what would be right.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load(
    path: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    """Reads the configuration.

    Args:
        path: The file; None looks for one, see `find_file`.
        environ: The environment; None means an empty one.
        flags: Settings by their dotted path; None as a value means that the flag was not given.

    Raises:
        ConfigurationError: With every problem found.
    """
    environ = environ or {}
    merged = _Merged()
    file = find_file(path, environ)
    if file is not None:
        merged.add(_file_source(file), environ)
    merged.add(_environment_source(environ), environ)
    merged.add(_flag_source(flags or {}), environ)
    merged.tree.setdefault("server", {}).setdefault("data_dir", default_data_dir(environ))
    settings = merged.settings()
    return settings.model_copy(update={"providers": tuple(_with_key(p, environ) for p in settings.providers)})


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Returns the file to read: the given one, `DRAGOMAN_CONFIG`, `./dragoman.toml`, the user's own, or None.

    Raises:
        ConfigurationError: If a file was named and does not exist.
    """
    named = path or (Path(environ["DRAGOMAN_CONFIG"]) if environ.get("DRAGOMAN_CONFIG") else None)
    if named is not None:
        named = _path(Path(), str(named))
        if not named.is_file():
            raise ConfigurationError([f"{named}: no such configuration file"])
        return named
    here = Path(FILE_NAME)
    users = _xdg(environ, "XDG_CONFIG_HOME", ".config") / "dragoman" / FILE_NAME
    return next((file for file in (here, users) if file.is_file()), None)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Returns the data folder of a configuration that names none."""
    return _xdg(environ, "XDG_DATA_HOME", ".local/share") / "dragoman"


def read_secret(text: str, environ: Mapping[str, str], base: Path) -> str:
    """Returns a secret: `env:NAME` is looked up, `file:PATH` is read (less one final line break), the rest is literal.

    Raises:
        ValueError: If it is missing or empty; the message never holds the secret.
    """
    kind, _, name = text.partition(":")
    if kind == "env":
        if not environ.get(name):
            raise ValueError(f"the environment variable {name} is not set")
        return environ[name]
    if kind == "file":
        file = _path(base, name)
        try:
            secret = file.read_text().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text"
            raise ValueError(f"the file {file} cannot be read: {reason}") from None
        if not secret:
            raise ValueError(f"the file {file} is empty")
        return secret
    return text


def bootstrap_key(environ: Mapping[str, str]) -> str | None:
    """Returns the key of `DRAGOMAN_BOOTSTRAP_KEY`, or None.

    Raises:
        ConfigurationError: If it refers to something missing.
    """
    if not (text := environ.get("DRAGOMAN_BOOTSTRAP_KEY")):
        return None
    try:
        return read_secret(text, environ, Path())
    except ValueError as error:
        raise ConfigurationError([f"DRAGOMAN_BOOTSTRAP_KEY: {error}"]) from None


def key_variable(provider: ProviderSettings) -> str:
    """Returns the environment variable that holds a provider's key if the configuration has none; else nothing.

    It is that of the vendor whose server is called, encrypted. No variable's key is sent anywhere else: a provider with
    an address of its own names its key itself.
    """
    vendor = vendors().get(provider.vendor)
    if provider.base_url:
        parts = urlsplit(provider.base_url)
        vendor = vendor_of_host(parts.hostname or "") if parts.scheme == "https" else None
    wanted = vendor is not None and provider.auth != "none" and provider.vendor in ("", vendor.name)
    return vendor.key_variable if vendor is not None and wanted and _dialect(provider) in OVER_HTTP else ""


def _with_key(provider: ProviderSettings, environ: Mapping[str, str]) -> ProviderSettings:
    if provider.api_key is not None or not (key := environ.get(key_variable(provider))):
        return provider
    return provider.model_copy(update={"api_key": SecretStr(key)})


def _dialect(provider: ProviderSettings) -> str:
    vendor = vendors().get(provider.vendor)
    return provider.dialect or (vendor.dialect if vendor is not None else "")


@cache
def variables() -> dict[str, str]:
    """Returns the regular environment variable of every setting, with the setting's dotted path."""
    return {PREFIX + path.upper().replace(".", "__"): path for path, _ in _leaves(Settings)}


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Returns the variables that look like the server's and mean nothing to it."""
    known = {*variables(), *SHORT_NAMES, *OTHER_VARIABLES}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


# --- sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """One source of settings.

    Attributes:
        tree: What it says.
        base: The folder that relative paths start from.
        label: From a dotted path to how the user finds the place.
        problems: What could not be read at all.
    """

    tree: dict[str, Any]
    base: Path
    label: Callable[[str], str]
    problems: tuple[str, ...] = ()


def _file_source(file: Path) -> _Source:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError([f"{file}: {error}"]) from None
    return _Source(tree, file.resolve().parent, lambda path: f"{file}: {path}")


def _environment_source(environ: Mapping[str, str]) -> _Source:
    tree: dict[str, Any] = {}
    names: dict[str, str] = {}
    problems: list[str] = []
    for name, text in environ.items():
        # Only names with "__" are certainly meant for us: orchestrators add variables for a service of our name.
        path = SHORT_NAMES.get(name) or variables().get(name)
        if path is None:
            if name.startswith(PREFIX) and "__" in name:
                problems.append(f"{name}: unknown variable{_hint(name, variables())}")
            continue
        if not text:
            continue
        if path in names:
            problems.append(f"{name}: says the same as {names[path]}; set only one of them")
        names[path] = name
        try:
            _put(tree, path, _from_text(dict(_leaves(Settings))[path], text))
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{name}: must be a TOML value: {error}")

    def label(path: str) -> str:
        top = next(known for known in names if path == known or path.startswith((known + ".", known + "[")))
        return names[top] if path == top else f"{names[top]}: {path}"

    return _Source(tree, Path.cwd(), label, tuple(problems))


def _flag_source(flags: Mapping[str, object]) -> _Source:
    tree: dict[str, Any] = {}
    for path, value in flags.items():
        if value is not None:
            _put(tree, path, value)
    return _Source(tree, Path.cwd(), lambda path: "--" + path.rpartition(".")[2].replace("_", "-"))


_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _from_text(annotation: Any, text: str) -> object:
    """Returns the value that a variable's text stands for. What cannot be converted stays text: validation names it."""
    kind = _required(annotation)
    if kind is bool:
        return _BOOLEANS.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if get_origin(kind) is None or get_origin(kind) not in (tuple, dict):
        return text
    if get_args(kind)[0] is str and get_origin(kind) is tuple and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    return tomllib.loads(f"value = {text}")["value"]


# --- merging and checking --------------------------------------------------------------------------------------------


@dataclass
class _Merged:
    """The sources read so far, as one tree."""

    tree: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    labels: dict[str, Callable[[str], str]] = field(default_factory=dict)
    """The label function of the source of each value, by its dotted path."""
    broken: set[str] = field(default_factory=set)
    """Paths that a problem was told of already."""

    def add(self, source: _Source, environ: Mapping[str, str]) -> None:
        self.problems += source.problems
        _merge(self.tree, self._section(Settings, source.tree, "", source, environ))

    def settings(self) -> Settings:
        """Validates the whole.

        Raises:
            ConfigurationError: With every problem of all sources.
        """
        settings = None
        try:
            settings = Settings.model_validate(self.tree, strict=True)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_context=False):
                path = _dotted(item["loc"])
                if not any(path == bad or path.startswith((bad + ".", bad + "[")) for bad in self.broken):
                    shown = "" if item["type"] == "missing" else f", but is {_short(item['input'])}"
                    self.problems.append(f"{self._label(path)}: {_expectation(item['msg'])}{shown}")
        if settings is not None:
            self.problems += (f"{self._label(path)}: {problem}" for path, problem in _contradictions(settings))
        if self.problems or settings is None:
            raise ConfigurationError(self.problems)
        return settings

    def _label(self, path: str) -> str:
        """Returns the place of a path: its own, or that of the nearest part of the tree that some source has set."""
        known = path
        while known and known not in self.labels:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        return self.labels[known](path) if known else path

    def _section(
        self, model: type[Section], tree: object, path: str, source: _Source, environ: Mapping[str, str]
    ) -> dict[str, Any]:
        if not isinstance(tree, dict):
            self._refuse(path, source, f"must be a table, but is {_short(tree)}")
            return {}
        result = {}
        for key, value in tree.items():
            below = f"{path}.{key}" if path else key
            if key not in model.model_fields:
                self._refuse(below, source, f"unknown key{_hint(key, model.model_fields, path)}")
                continue
            annotation = model.model_fields[key].annotation
            if not _is_section(_required(annotation)):
                self.labels[below] = source.label
            result[key] = self._value(annotation, value, below, source, environ)
        return result

    def _value(self, annotation: Any, value: Any, path: str, source: _Source, environ: Mapping[str, str]) -> Any:
        kind, arguments = _required(annotation), get_args(_required(annotation))
        if _is_section(kind):
            return self._section(kind, value, path, source, environ)
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(self._value(arguments[0], v, f"{path}[{i}]", source, environ) for i, v in enumerate(value))
        if get_origin(kind) is dict and isinstance(value, dict):
            return {k: self._value(arguments[1], v, f"{path}.{k}", source, environ) for k, v in value.items()}
        if kind is SecretStr:
            try:
                if not isinstance(value, str):
                    raise ValueError("must be text")
                return SecretStr(read_secret(value, environ, source.base))
            except ValueError as error:
                self._refuse(path, source, str(error))
                return None
        if isinstance(value, str) and kind is Path:
            return _path(source.base, value)
        if path in _MODEL_FILES and str(value).endswith(".gguf") and not str(value).startswith("hf:"):
            return str(_path(source.base, value))
        return value

    def _refuse(self, path: str, source: _Source, problem: str) -> None:
        self.problems.append(f"{source.label(path)}: {problem}")
        self.broken.add(path)


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yields what is wrong between settings that are right by themselves: the dotted path and the problem."""
    server = settings.server
    if server.port == server.grpc_port != 0:
        yield "server.grpc_port", f"must differ from server.port, but both are {server.port}"
    yield from _auth_contradictions(settings.auth)
    names: set[str] = set()
    for index, provider in enumerate(settings.providers):
        yield from _provider_contradictions(f"providers[{index}]", provider, names)
        names.add(provider.name)
    names.add(EMBEDDED)
    ids: set[str] = set()
    for index, model in enumerate(settings.models):
        if model.id in ids:
            yield f"models[{index}].id", f"{model.id!r} is used twice"
        ids.add(model.id)
        yield from _model_contradictions(f"models[{index}]", model, names)
    default = settings.default_model
    if default and default not in ids and default.partition("/")[0] not in names:
        yield "default_model", f"there is no model {default!r}{_hint(default, ids)}"


def _auth_contradictions(auth: AuthSettings) -> Iterator[tuple[str, str]]:
    jwt, secret = auth.jwt, auth.login.secret
    if secret is not None and len(secret.get_secret_value().encode()) < MIN_TOKEN_SECRET:
        yield "auth.login.secret", f"must have at least {MIN_TOKEN_SECRET} bytes"
    if jwt is None:
        return
    if jwt.issuer == LOGIN_ISSUER:
        yield "auth.jwt.issuer", f"must not be {LOGIN_ISSUER!r}: that is who issues the tokens of logins here"
    if jwt.hs256_secret is None and jwt.public_key is None and not jwt.jwks_url:
        yield "auth.jwt", "needs one of hs256_secret, public_key and jwks_url"
    if jwt.hs256_secret is not None and len(jwt.hs256_secret.get_secret_value().encode()) < MIN_TOKEN_SECRET:
        yield "auth.jwt.hs256_secret", f"must have at least {MIN_TOKEN_SECRET} bytes"
    if "HS256" in jwt.algorithms and jwt.hs256_secret is None:
        yield "auth.jwt.algorithms", "names HS256, but there is no hs256_secret"
    if jwt.jwks_url:
        parts = urlsplit(jwt.jwks_url)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
            yield "auth.jwt.jwks_url", "must start with https://, or be at a loopback address"


def _provider_contradictions(path: str, provider: ProviderSettings, taken: set[str]) -> Iterator[tuple[str, str]]:
    if provider.name in RESERVED:
        yield f"{path}.name", f"{provider.name!r} is {RESERVED[provider.name]}; choose another"
    elif provider.name in taken:
        yield f"{path}.name", f"{provider.name!r} is used twice"
    vendor = vendors().get(provider.vendor)
    if provider.vendor and vendor is None:
        yield f"{path}.vendor", f"there is no vendor {provider.vendor!r}{_hint(provider.vendor, vendors())}"
    elif not provider.vendor and not provider.dialect:
        yield f"{path}.dialect", "is required without a vendor"
    dialect = _dialect(provider)
    if dialect in OVER_HTTP:
        if not provider.base_url and not provider.vendor:
            yield f"{path}.base_url", f"is required for the dialect {dialect} without a vendor"
        elif not provider.base_url and vendor is not None and vendor.dialect != dialect:
            yield f"{path}.base_url", f"is required: {vendor.title} has no known address for the dialect {dialect}"
        elif not provider.base_url and vendor is not None and not vendor.base_url:
            yield f"{path}.base_url", f"is required: every customer of {vendor.title} has an address of their own"
        elif provider.base_url and not provider.base_url.startswith(("http://", "https://")):
            yield f"{path}.base_url", f"must start with http:// or https://, but is {_short(provider.base_url)}"
    elif dialect == "plugin" and not provider.base_url:
        yield f"{path}.base_url", "is required for the dialect plugin"
    yield from _quirk_contradictions(f"{path}.quirks", provider.quirks, dialect)


def _quirk_contradictions(path: str, quirks: QuirkSettings, dialect: str) -> Iterator[tuple[str, str]]:
    if dialect and dialect not in OVER_HTTP and quirks != QuirkSettings():
        yield path, f"must not be set for the dialect {dialect}"
    for asked in quirks.unsupported or ():
        if not may_be_unsupported(asked):
            yield f"{path}.unsupported", f"a request has no field {_short(asked)}"


def _model_contradictions(path: str, model: ModelSettings, providers: set[str]) -> Iterator[tuple[str, str]]:
    if model.targets:
        for name in ("provider", "upstream_model"):
            if getattr(model, name):
                yield f"{path}.{name}", "must not be set beside targets: each of them names its own"
    elif not model.provider:
        yield f"{path}.provider", "is required without targets"
    elif not model.upstream_model:
        yield f"{path}.upstream_model", "is required without targets"
    seen: set[tuple[str, str]] = set()
    for index, target in enumerate(model.targets):
        key = (target.provider, target.upstream_model)
        if key in seen:
            yield f"{path}.targets[{index}]", "is there twice"
        seen.add(key)
    named = [(f"{path}.targets[{index}].provider", target.provider) for index, target in enumerate(model.targets)]
    for where, provider in named or [(f"{path}.provider", model.provider)]:
        if provider and provider not in providers:
            yield where, f"there is no provider {provider!r}{_hint(provider, providers)}"


# --- small parts -----------------------------------------------------------------------------------------------------


def _leaves(model: type[Section], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every setting below a section with its annotation; lists of tables count as one."""
    for name, info in model.model_fields.items():
        if _is_section(section := _required(info.annotation)):
            yield from _leaves(section, f"{path}{name}.")
        else:
            yield path + name, info.annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _required(annotation: Any) -> Any:
    """Returns the annotation without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _put(tree: dict[str, Any], path: str, value: object) -> None:
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _hint(key: str, known: Iterable[str], path: str = "") -> str:
    """Returns a suggestion: the nearest name beside the key, or the place elsewhere that has this very name."""
    known = list(known)
    if near := difflib.get_close_matches(key, known, 1):
        return f"; did you mean {f'{path}.{near[0]}' if path else near[0]}?"
    if elsewhere := [leaf for leaf in variables().values() if leaf.rpartition(".")[2] == key]:
        return f"; did you mean {elsewhere[0]}?"
    return ""


def _dotted(location: Iterable[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _expectation(message: str) -> str:
    """Returns a validator's message as the second half of a sentence."""
    if message == "Field required":
        return "is required"
    _, found, rest = message.partition(" should ")
    return f"must {rest.replace('a valid tuple', 'a list')}" if found else message


def _short(value: object) -> str:
    """Returns a value for a message; tables and lists only by their kind, for they may hold a secret."""
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(base: Path, text: str) -> Path:
    """Returns a path below `base`, unless it is absolute or begins with a home; an unknown home is an ordinary name."""
    return base / os.path.expanduser(text)


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    """Returns a base folder of the XDG specification, which wants relative values ignored."""
    folder = Path(environ.get(variable, ""))
    return folder if folder.is_absolute() else Path(environ.get("HOME") or Path.home()) / default
