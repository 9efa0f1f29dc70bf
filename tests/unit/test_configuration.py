from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dragoman_server.configuration import (
    OTHER_VARIABLES,
    SHORT_NAMES,
    ConfigurationError,
    bootstrap_key,
    default_data_dir,
    find_file,
    key_variable,
    load,
    read_secret,
    unknown_variables,
    variables,
)
from dragoman_server.settings import ProviderSettings, Settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads this machine's own configuration."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def write(folder: Path, text: str) -> Path:
    file = folder / "dragoman.toml"
    file.write_text(text)
    return file


def problems(folder: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> list[str]:
    file = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ, flags)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


def test_nothing_said_gives_the_defaults(tmp_path: Path) -> None:
    settings = load(environ={"HOME": str(tmp_path)})
    data_dir = tmp_path / ".local/share/dragoman"
    assert settings == Settings.model_validate({"server": {"data_dir": data_dir}})


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = write(tmp_path, 'default_model = "a/b"\n[server]\nhost = "h"\nport = 1\ngrpc_port = 4\n[[providers]]\n'
                 'name = "a"\ndialect = "scripted"\n')  # fmt: skip
    environ = {"DRAGOMAN_PORT": "2", "DRAGOMAN_SERVER__GRPC_PORT": "5", "DRAGOMAN_LOCAL__ENABLED": "no"}
    settings = load(file, environ, {"server.port": 3, "server.grpc_port": None})
    assert (settings.server.host, settings.server.port, settings.server.grpc_port) == ("h", 3, 5)
    assert settings.local.enabled is False
    assert settings.providers[0].name == "a"


def test_unknown_keys_get_the_nearest_name(tmp_path: Path) -> None:
    text = 'port = 1\n[server]\nprot = 2\n[[providers]]\nname = "a"\ndialect = "scripted"\nbase_ulr = ""\n[nonsense]\n'
    assert problems(tmp_path, text) == [
        "port: unknown key; did you mean server.port?",
        "server.prot: unknown key; did you mean server.port?",
        "providers[0].base_ulr: unknown key; did you mean providers[0].base_url?",
        "nonsense: unknown key",
    ]


def test_every_problem_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '[server]\ndrain_timeout = -1\n[local]\nenabled = "maybe"\n[cors]\norigins = "x"\n',
        {"DRAGOMAN_PORT": "tcp://1", "DRAGOMAN_LIMITS__MAX_JSN_DEPTH": "3"},
        **{"server.grpc_port": 99_999},
    )
    assert sorted(found) == [
        "--grpc-port: must be less than or equal to 65535, but is 99999",
        "DRAGOMAN_LIMITS__MAX_JSN_DEPTH: unknown variable; did you mean DRAGOMAN_LIMITS__MAX_JSON_DEPTH?",
        "DRAGOMAN_PORT: must be a valid integer, but is 'tcp://1'",
        "cors.origins: must be a list, but is 'x'",
        "local.enabled: must be a valid boolean, but is 'maybe'",
        "server.drain_timeout: must be greater than 0, but is -1",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[server]\nport = "8080"', "server.port: must be a valid integer, but is '8080'"),
        ("[server]\nport = true", "server.port: must be a valid integer, but is True"),
        ("server = 3", "server: must be a table, but is 3"),
        ("providers = 3", "providers: must be a list, but is 3"),
        ("providers = [3]", "providers[0]: must be a table, but is 3"),
        ('[[providers]]\nname = "a"', "providers[0].dialect: is required without a vendor"),
        ("[store]\nurl = 3", "store.url: must be text"),
        ("[server]\nport = 7\ngrpc_port = 7", "server.grpc_port: must differ from server.port, but both are 7"),
        ('default_model = "x"', "default_model: there is no model 'x'"),
        ("[server\n", "Expected ']' at the end of a table declaration (at line 1, column 8)"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


PROVIDER = '[[providers]]\nname = "{0}"\ndialect = "{1}"\n{2}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            PROVIDER.format("local", "scripted", ""),
            "providers[0].name: 'local' is the embedded model's; choose another",
        ),
        (
            PROVIDER.format("proxy", "scripted", ""),
            "providers[0].name: 'proxy' is what servers are called that requests name; choose another",
        ),
        (PROVIDER.format("a", "scripted", "") * 2, "providers[1].name: 'a' is used twice"),
        (
            PROVIDER.format("a", "openai_chat", ""),
            "providers[0].base_url: is required for the dialect openai_chat without a vendor",
        ),
        (
            PROVIDER.format("a", "openai_chat", 'base_url = "localhost:1"'),
            "providers[0].base_url: must start with http:// or https://, but is 'localhost:1'",
        ),
        (
            PROVIDER.format("a", "", 'vendor = "antropic"'),
            "providers[0].vendor: there is no vendor 'antropic'; did you mean anthropic?",
        ),
        (PROVIDER.format("a", "plugin", ""), "providers[0].base_url: is required for the dialect plugin"),
        (
            PROVIDER.format("a", "scripted", "quirks = { stream_usage = false }"),
            "providers[0].quirks: must not be set for the dialect scripted",
        ),
        (
            PROVIDER.format("a", "", 'vendor = "openai"\nquirks = { unsupported = ["user", "sampling.tempo"] }'),
            "providers[0].quirks.unsupported: a request has no field 'sampling.tempo'",
        ),
        (
            PROVIDER.format("a", "anthropic_messages", 'vendor = "openai"'),
            "providers[0].base_url: is required: OpenAI has no known address for the dialect anthropic_messages",
        ),
        (
            PROVIDER.format("a", "openai_chat", 'vendor = "azure"'),
            "providers[0].base_url: is required: every customer of Azure OpenAI has an address of their own",
        ),
        (
            PROVIDER.format("ref", "scripted", "")
            + '[[models]]\nid = "m"\ntargets = [{provider = "ref", upstream_model = "u"}, '
            '{provider = "erf", upstream_model = "u"}]\n',
            "models[0].targets[1].provider: there is no provider 'erf'; did you mean ref?",
        ),
        (
            PROVIDER.format("ref", "scripted", "")
            + '[[models]]\nid = "m"\nprovider = "ref"\ntargets = [{provider = "ref", upstream_model = "u"}]\n',
            "models[0].provider: must not be set beside targets: each of them names its own",
        ),
        (
            PROVIDER.format("ref", "scripted", "") + '[[models]]\nid = "m"\nprovider = "ref"\n',
            "models[0].upstream_model: is required without targets",
        ),
        ('[[models]]\nid = "m"\nupstream_model = "u"\n', "models[0].provider: is required without targets"),
        (
            PROVIDER.format("ref", "scripted", "") + '[[models]]\nid = "m"\ntargets = ['
            '{provider = "ref", upstream_model = "u"}, {provider = "ref", upstream_model = "u"}]\n',
            "models[0].targets[1]: is there twice",
        ),
        (
            PROVIDER.format("ref", "scripted", "") + '[[models]]\nid = "m"\nprovider = "erf"\nupstream_model = "u"\n',
            "models[0].provider: there is no provider 'erf'; did you mean ref?",
        ),
        (
            PROVIDER.format("a", "scripted", "") + '[[models]]\nid = "m"\nprovider = "a"\nupstream_model = "u"\n' * 2,
            "models[1].id: 'm' is used twice",
        ),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_an_alias_of_the_embedded_model_and_a_default_of_any_provider_are_right(tmp_path: Path) -> None:
    text = 'default_model = "a/any"\n[[models]]\nid = "m"\nprovider = "local"\nupstream_model = "u"\n'
    settings = load(write(tmp_path, text + PROVIDER.format("a", "scripted", "")))
    assert settings.models[0].provider == "local"


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ({"vendor": "anthropic"}, "ANTHROPIC_API_KEY"),
        ({"vendor": "openai", "base_url": "https://eu.api.openai.com/v1"}, "OPENAI_API_KEY"),
        ({"dialect": "openai_chat", "base_url": "https://api.groq.com/openai/v1"}, "GROQ_API_KEY"),
        ({"vendor": "azure", "base_url": "https://me.openai.azure.com/openai/v1"}, "AZURE_OPENAI_API_KEY"),
        # Nobody else's server gets it, and nobody gets it in the clear.
        ({"vendor": "openai", "base_url": "https://proxy.example.org/v1"}, ""),
        ({"vendor": "openai", "base_url": "https://api.groq.com/openai/v1"}, ""),
        ({"vendor": "openai", "base_url": "http://api.openai.com/v1"}, ""),
        ({"vendor": "openai", "auth": "none"}, ""),
        ({"vendor": "ollama"}, ""),
        ({"dialect": "scripted"}, ""),
    ],
)
def test_the_usual_variable_of_a_vendor_holds_its_key(provider: dict[str, str], variable: str) -> None:
    assert key_variable(ProviderSettings.model_validate({"name": "p", **provider})) == variable


def test_the_key_of_a_vendor_is_read_from_its_usual_variable(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[[providers]]\nname = "a"\nvendor = "openai"\n[[providers]]\nname = "b"\nvendor = "openai"\n'
        'api_key = "own"\n[[providers]]\nname = "c"\nvendor = "groq"\n',
    )
    keys = [provider.api_key for provider in load(file, {"OPENAI_API_KEY": "usual", "GROQ_API_KEY": ""}).providers]
    assert [key and key.get_secret_value() for key in keys] == ["usual", "own", None]


def test_secrets_come_from_the_environment_files_or_the_text(tmp_path: Path, empty_folder: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    text = PROVIDER.format("a", "scripted", 'api_key = "file:key"\nheaders = {x = "env:NAME", y = "literal:1"}')
    provider = load(write(tmp_path, text), {"NAME": "from-environment"}).providers[0]
    assert provider.api_key is not None
    assert provider.api_key.get_secret_value() == "from-file"
    assert {name: secret.get_secret_value() for name, secret in provider.headers.items()} == {
        "x": "from-environment",
        "y": "literal:1",
    }
    assert "from-" not in repr(provider)


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("env:NAME", "the environment variable NAME is not set"),
        ("file:none", "the file {folder}/none cannot be read: No such file or directory"),
        ("file:empty", "the file {folder}/empty is empty"),
        ("file:.", "the file {folder} cannot be read: Is a directory"),
        ("file:binary", "the file {folder}/binary cannot be read: not a text"),
    ],
)
def test_a_missing_secret_is_told(tmp_path: Path, secret: str, problem: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    found = problems(tmp_path, PROVIDER.format("a", "scripted", f'api_key = "{secret}"'))
    assert found == [f"providers[0].api_key: {problem.format(folder=tmp_path)}"]


@pytest.mark.parametrize("text", ['providers = {api_key = "sesame"}', '[[providers]]\napi_key = ["sesame"]'])
def test_no_message_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert "sesame" not in " ".join(problems(tmp_path, text))


def test_relative_paths_of_a_file_start_from_it(tmp_path: Path, empty_folder: Path) -> None:
    file = write(
        tmp_path,
        '[server]\ndata_dir = "d"\ngrpc_socket = "/s"\n[local]\nmodel = "m.gguf"\nembedding_model = "e.gguf"\n',
    )
    settings = load(file)
    assert settings.server.data_dir == tmp_path / "d"
    assert settings.server.grpc_socket == Path("/s")
    assert settings.local.model == str(tmp_path / "m.gguf")
    assert settings.local.embedding_model == str(tmp_path / "e.gguf")
    assert load(file, {"DRAGOMAN_DATA_DIR": "e"}).server.data_dir == empty_folder / "e"


def test_lists_in_variables(tmp_path: Path) -> None:
    environ = {
        "DRAGOMAN_CORS__ORIGINS": "https://a.example, https://b.example",
        "DRAGOMAN_PROVIDERS": '[{name = "a", dialect = "scripted"}]',
    }
    settings = load(None, environ)
    assert settings.cors.origins == ("https://a.example", "https://b.example")
    assert settings.providers[0].dialect == "scripted"
    assert load(None, {"DRAGOMAN_CORS__ORIGINS": '["*"]'}).cors.origins == ("*",)
    assert problems(tmp_path, "", {"DRAGOMAN_PROVIDERS": '[{name="a", dialect="x"}]'}) == [
        "DRAGOMAN_PROVIDERS: providers[0].dialect: must be '', 'openai_chat', 'anthropic_messages', 'gemini', "
        "'plugin', 'litellm' or 'scripted', but is 'x'"
    ]
    assert problems(tmp_path, "", {"DRAGOMAN_PROVIDERS": "["})[0].startswith("DRAGOMAN_PROVIDERS: must be a TOML value")


def test_empty_variables_say_nothing_and_doubled_ones_are_refused(tmp_path: Path) -> None:
    assert load(None, {"DRAGOMAN_PORT": ""}).server.port == 8080
    assert problems(tmp_path, "", {"DRAGOMAN_PORT": "1", "DRAGOMAN_SERVER__PORT": "1"}) == [
        "DRAGOMAN_SERVER__PORT: says the same as DRAGOMAN_PORT; set only one of them"
    ]


def test_foreign_variables_are_left_alone_but_can_be_listed() -> None:
    environ = {"DRAGOMAN_SERVICE_HOST": "10.0.0.1", "DRAGOMAN_PROT": "1", "PATH": "", "DRAGOMAN_API_KEY": "k"}
    assert load(None, environ).server.port == 8080
    assert unknown_variables(environ) == ["DRAGOMAN_PROT", "DRAGOMAN_SERVICE_HOST"]


def test_where_the_file_is_looked_for(tmp_path: Path, empty_folder: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert find_file(None, environ) is None
    (tmp_path / "xdg/dragoman").mkdir(parents=True)
    users = write(tmp_path / "xdg/dragoman", "")
    assert find_file(None, environ) == users
    write(empty_folder, "")
    assert find_file(None, environ) == Path("dragoman.toml")
    assert find_file(None, environ | {"DRAGOMAN_CONFIG": str(users)}) == users
    with pytest.raises(ConfigurationError, match="no such configuration file"):
        find_file(tmp_path / "none.toml", environ)


def test_relative_xdg_folders_are_ignored(tmp_path: Path) -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/dragoman")
    assert default_data_dir({"XDG_DATA_HOME": "data", "HOME": "/h"}) == Path("/h/.local/share/dragoman")


def test_the_bootstrap_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 20)
    assert bootstrap_key({}) is None
    assert bootstrap_key({"DRAGOMAN_BOOTSTRAP_KEY": f"file:{tmp_path}/key"}) == "k" * 20
    with pytest.raises(ConfigurationError, match="DRAGOMAN_BOOTSTRAP_KEY: the environment variable X is not set"):
        bootstrap_key({"DRAGOMAN_BOOTSTRAP_KEY": "env:X"})


def test_names_of_variables_do_not_collide() -> None:
    assert not set(variables()) & (set(SHORT_NAMES) | set(OTHER_VARIABLES))
    assert set(SHORT_NAMES.values()) <= set(variables().values())


NUMBERS = [path for path in variables().values() if path.startswith(("limits.", "runs.", "sse."))]


@given(st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 10**9)))
def test_a_number_means_the_same_in_a_file_a_variable_and_a_flag(values: dict[str, int]) -> None:
    names = {path: name for name, path in variables().items()}
    by_flag = load(flags=values)
    assert load(environ={names[path]: str(value) for path, value in values.items()}) == by_flag
    for path, value in values.items():
        section, _, key = path.partition(".")
        assert getattr(getattr(by_flag, section), key) == value


@given(st.text(string.printable, max_size=40).filter(lambda text: not text.startswith(("env:", "file:"))))
def test_any_other_text_is_the_secret_itself(text: str) -> None:
    assert read_secret(text, {}, Path("/nonexistent")) == text


@example("file:", "~0")
@given(st.sampled_from(["env:", "file:"]), st.text(string.printable, max_size=40))
def test_a_reference_never_comes_back_as_the_secret(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read_secret(kind + name, {}, Path("/nonexistent"))


def test_a_section_that_may_be_absent_is_filled_from_file_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text('[auth.jwt]\nissuer = "https://id.example"\nhs256_secret = "env:JWT_SECRET"\n')
    variables = {"DRAGOMAN_AUTH__JWT__AUDIENCE": "dragoman", "JWT_SECRET": "s" * 32}
    jwt = load(file, variables).auth.jwt
    assert jwt is not None
    assert (jwt.issuer, jwt.audience) == ("https://id.example", "dragoman")
    assert jwt.hs256_secret is not None
    assert jwt.hs256_secret.get_secret_value() == "s" * 32
    assert load(None, {}).auth.jwt is None
    with pytest.raises(ConfigurationError) as refused:
        load(None, {"DRAGOMAN_AUTH__JWT__AUDIENCE": "dragoman"})
    assert any("issuer" in problem for problem in refused.value.problems)


SECRET = "a-shared-secret-of-32-bytes-or-more"
JWT = f'[auth.jwt]\nissuer = "https://i"\naudience = "a"\nhs256_secret = "{SECRET}"\n'


def test_an_identity_provider_comes_from_a_file_or_from_variables(tmp_path: Path) -> None:
    assert load(environ={}).auth.jwt is None
    file = write(tmp_path, JWT.replace(f'"{SECRET}"', '"env:JWT_SECRET"'))
    jwt = load(file, {"JWT_SECRET": SECRET, "DRAGOMAN_AUTH__JWT__AUDIENCE": "b"}).auth.jwt
    assert jwt is not None
    assert jwt.hs256_secret is not None
    assert (jwt.issuer, jwt.audience, jwt.hs256_secret.get_secret_value()) == ("https://i", "b", SECRET)
    names = {"ISSUER": "https://i", "AUDIENCE": "a", "JWKS_URL": "https://i/keys", "LEEWAY": "5"}
    jwt = load(environ={f"DRAGOMAN_AUTH__JWT__{name}": text for name, text in names.items()}).auth.jwt
    assert jwt is not None
    assert (jwt.jwks_url, jwt.leeway, jwt.hs256_secret) == ("https://i/keys", 5, None)
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PUBLIC KEY-----\n")
    jwt = load(write(tmp_path, JWT + 'public_key = "file:key.pem"\n')).auth.jwt
    assert jwt is not None
    assert jwt.public_key is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (JWT.replace(SECRET, "short"), "auth.jwt.hs256_secret: must have at least 32 bytes"),
        (JWT.replace("https://i", "dragoman"), "auth.jwt.issuer: must not be 'dragoman'"),
        ('[auth.jwt]\nissuer = "i"\naudience = "a"\n', "auth.jwt: needs one of hs256_secret, public_key and jwks_url"),
        ('[auth.jwt]\nissuer = "i"\n', "auth.jwt.audience: is required"),
        (JWT + 'jwks_url = "http://i/keys"\n', "auth.jwt.jwks_url: must start with https://"),
        (JWT + 'jwks_url = "file:///keys"\n', "auth.jwt.jwks_url: must start with https://"),
        (JWT.replace(f'hs256_secret = "{SECRET}"', 'jwks_url = "https://i/k"\nalgorithms = ["HS256"]'), "names HS256"),
        (JWT + 'algorithms = ["none"]\n', "auth.jwt.algorithms[0]: must be"),
        (JWT + 'isuer = "x"\n', "auth.jwt.isuer: unknown key; did you mean auth.jwt.issuer?"),
        ('[auth.login]\nsecret = "short"\n', "auth.login.secret: must have at least 32 bytes"),
        ("[auth]\njwt = 1\n", "auth.jwt: must be a table"),
    ],
)
def test_what_is_wrong_with_an_identity_provider_is_named(tmp_path: Path, text: str, problem: str) -> None:
    found = problems(tmp_path, text)
    assert any(one.startswith(problem) or problem in one for one in found), found
    assert not any(SECRET in one for one in found)


def test_keys_at_a_loopback_address_need_no_encryption(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:8080/k", "http://localhost/k", "http://[::1]/k", "https://idp.example/k"):
        assert load(write(tmp_path, JWT + f'jwks_url = "{url}"\n')).auth.jwt is not None
