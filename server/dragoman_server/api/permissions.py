"""What each method needs: one table. A method that is not in it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts.authority import has_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_server.caller import Caller

MEMBER, ADMIN, OPERATOR = KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN, KeyRole.KEY_ROLE_OPERATOR


class Permission(NamedTuple):
    """What a method needs.

    Attributes:
        scope: The scope, `.read` behind it if it changes nothing; empty if any good credential will do.
        role: The least role.
        public: Whether it needs no credential at all.
    """

    scope: str = ""
    role: KeyRole = MEMBER
    public: bool = False


_PUBLIC = Permission(public=True)

_METHODS: dict[str, dict[str, Permission]] = {
    "RunService": {
        "ExecuteRun": Permission("runs"),
        "StreamRun": Permission("runs"),
        "StartRun": Permission("runs"),
        "WatchRun": Permission("runs.read"),
        "GetRun": Permission("runs.read"),
        "ListRuns": Permission("runs.read"),
        "CancelRun": Permission("runs"),
    },
    "CatalogService": {
        "ListModels": Permission("models.read"),
        "GetModel": Permission("models.read"),
    },
    "EmbeddingService": {
        "Embed": Permission("embeddings"),
    },
    "AccountService": {
        "GetCaller": Permission(),
        "CreateKey": Permission("account", ADMIN),
        "ListKeys": Permission("account.read", ADMIN),
        "UpdateKey": Permission("account", ADMIN),
        "RevokeKey": Permission("account", ADMIN),
        "CreateAccount": Permission("account", OPERATOR),
        "GetAccount": Permission("account.read"),
        "ListAccounts": Permission("account.read", OPERATOR),
        "UpdateAccount": Permission("account", OPERATOR),
        "DeleteAccount": Permission("account", OPERATOR),
        "ExportAccount": Permission("account.read", ADMIN),
        "CreateUser": Permission("account", ADMIN),
        "GetUser": Permission("account.read"),
        "ListUsers": Permission("account.read", ADMIN),
        "UpdateUser": Permission("account", ADMIN),
        "DeleteUser": Permission("account", ADMIN),
        "Login": _PUBLIC,
        "RefreshLogin": _PUBLIC,
        "Logout": _PUBLIC,
        "ListAuditEntries": Permission("account.read", ADMIN),
    },
    "CreditService": {
        "ListBalances": Permission("credits.read"),
        "ListLedgerEntries": Permission("credits.read", ADMIN),  # they tell what others did
        "GrantCredits": Permission("credits", OPERATOR),
        "AdjustCredits": Permission("credits", OPERATOR),
        "ListPrices": Permission("credits.read"),
    },
    "UsageService": {
        "ListUsage": Permission("usage.read"),
        "SummarizeUsage": Permission("usage.read"),
    },
    "ConversationService": {
        "CreateConversation": Permission("conversations"),
        "GetConversation": Permission("conversations.read"),
        "ListConversations": Permission("conversations.read"),
        "UpdateConversation": Permission("conversations"),
        "DeleteConversation": Permission("conversations"),
        "UndeleteConversation": Permission("conversations"),
        "ForkConversation": Permission("conversations"),
        "AppendMessages": Permission("conversations"),
        "ListMessages": Permission("conversations.read"),
        "ExportConversation": Permission("conversations.read"),
        "ImportConversation": Permission("conversations"),
    },
    "PersonaService": {
        "ListPersonas": Permission("models.read"),
        "GetPersona": Permission("models.read"),
        "SavePersona": Permission("account", ADMIN),
        "DeletePersona": Permission("account", ADMIN),
    },
}

PERMISSIONS: Mapping[str, Permission] = {
    f"/dragoman.v1.{service}/{method}": permission
    for service, methods in _METHODS.items()
    for method, permission in methods.items()
}
"""What each method needs, by its path."""


def missing(caller: Caller, permission: Permission) -> str:
    """Returns what a caller lacks for a method; empty if nothing."""
    scopes = caller.grants.scopes
    if scopes and permission.scope and not has_scope(scopes, permission.scope):
        return f"the credential does not have the scope `{permission.scope}`"
    if caller.role < permission.role:
        return f"this needs the role {KeyRole.Name(permission.role).removeprefix('KEY_ROLE_')}"
    return ""
