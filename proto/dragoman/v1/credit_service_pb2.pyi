import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Balance(_message.Message):
    __slots__ = ("currency", "available_micros", "held_micros")
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    currency: str
    available_micros: int
    held_micros: int
    def __init__(self, currency: _Optional[str] = ..., available_micros: _Optional[int] = ..., held_micros: _Optional[int] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("id", "account_id", "currency", "kind", "amount_micros", "run_id", "step_id", "create_time", "note")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[LedgerEntry.Kind]
        KIND_GRANT: _ClassVar[LedgerEntry.Kind]
        KIND_ADJUST: _ClassVar[LedgerEntry.Kind]
        KIND_HOLD: _ClassVar[LedgerEntry.Kind]
        KIND_CHARGE: _ClassVar[LedgerEntry.Kind]
        KIND_RELEASE: _ClassVar[LedgerEntry.Kind]
    KIND_UNSPECIFIED: LedgerEntry.Kind
    KIND_GRANT: LedgerEntry.Kind
    KIND_ADJUST: LedgerEntry.Kind
    KIND_HOLD: LedgerEntry.Kind
    KIND_CHARGE: LedgerEntry.Kind
    KIND_RELEASE: LedgerEntry.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    id: str
    account_id: str
    currency: str
    kind: LedgerEntry.Kind
    amount_micros: int
    run_id: str
    step_id: str
    create_time: _timestamp_pb2.Timestamp
    note: str
    def __init__(self, id: _Optional[str] = ..., account_id: _Optional[str] = ..., currency: _Optional[str] = ..., kind: _Optional[_Union[LedgerEntry.Kind, str]] = ..., amount_micros: _Optional[int] = ..., run_id: _Optional[str] = ..., step_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., note: _Optional[str] = ...) -> None: ...

class ListBalancesRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class ListBalancesResponse(_message.Message):
    __slots__ = ("balances", "plan", "plan_renew_time")
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_RENEW_TIME_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[Balance]
    plan: str
    plan_renew_time: _timestamp_pb2.Timestamp
    def __init__(self, balances: _Optional[_Iterable[_Union[Balance, _Mapping]]] = ..., plan: _Optional[str] = ..., plan_renew_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListLedgerEntriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "account_id", "currency", "run_id")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    account_id: str
    currency: str
    run_id: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., account_id: _Optional[str] = ..., currency: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class ListLedgerEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GrantCreditsRequest(_message.Message):
    __slots__ = ("account_id", "currency", "amount_micros", "note", "request_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    currency: str
    amount_micros: int
    note: str
    request_id: str
    def __init__(self, account_id: _Optional[str] = ..., currency: _Optional[str] = ..., amount_micros: _Optional[int] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class GrantCreditsResponse(_message.Message):
    __slots__ = ("entry", "balance")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    entry: LedgerEntry
    balance: Balance
    def __init__(self, entry: _Optional[_Union[LedgerEntry, _Mapping]] = ..., balance: _Optional[_Union[Balance, _Mapping]] = ...) -> None: ...

class AdjustCreditsRequest(_message.Message):
    __slots__ = ("account_id", "currency", "amount_micros", "note", "request_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    currency: str
    amount_micros: int
    note: str
    request_id: str
    def __init__(self, account_id: _Optional[str] = ..., currency: _Optional[str] = ..., amount_micros: _Optional[int] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AdjustCreditsResponse(_message.Message):
    __slots__ = ("entry", "balance")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    entry: LedgerEntry
    balance: Balance
    def __init__(self, entry: _Optional[_Union[LedgerEntry, _Mapping]] = ..., balance: _Optional[_Union[Balance, _Mapping]] = ...) -> None: ...

class ListPricesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPricesResponse(_message.Message):
    __slots__ = ("prices", "plans")
    PRICES_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    prices: _containers.RepeatedCompositeFieldContainer[Price]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    def __init__(self, prices: _Optional[_Iterable[_Union[Price, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("operation", "currency", "request_micros", "input_micros_per_million", "output_micros_per_million", "model", "cached_input_micros_per_million")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_MICROS_FIELD_NUMBER: _ClassVar[int]
    INPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_MICROS_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    operation: str
    currency: str
    request_micros: int
    input_micros_per_million: int
    output_micros_per_million: int
    model: str
    cached_input_micros_per_million: int
    def __init__(self, operation: _Optional[str] = ..., currency: _Optional[str] = ..., request_micros: _Optional[int] = ..., input_micros_per_million: _Optional[int] = ..., output_micros_per_million: _Optional[int] = ..., model: _Optional[str] = ..., cached_input_micros_per_million: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("name", "currency", "monthly_micros", "rollover_micros", "requests_per_minute")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    MONTHLY_MICROS_FIELD_NUMBER: _ClassVar[int]
    ROLLOVER_MICROS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    currency: str
    monthly_micros: int
    rollover_micros: int
    requests_per_minute: int
    def __init__(self, name: _Optional[str] = ..., currency: _Optional[str] = ..., monthly_micros: _Optional[int] = ..., rollover_micros: _Optional[int] = ..., requests_per_minute: _Optional[int] = ...) -> None: ...
