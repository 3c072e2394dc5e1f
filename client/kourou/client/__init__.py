"""The native client: ``async with Client(…) as client``. ``kourou.client.blocking`` has the same without asyncio."""

from kourou.client.client import Client
from kourou.client.consumer import Batch, Consumer
from kourou.client.damage import Damage, DamagedMessages
from kourou.client.delivered import ReceivedMessage
from kourou.client.message import Message, Receipt
from kourou.client.producer import Producer
from kourou.client.receipts import Receipts, SendFailed
from kourou.client.shared.consumer import SharedConsumer
from kourou.client.shared.message import SharedMessage
from kourou.client.shared.options import Sql
from kourou.client.transactions.checks import HalfMessage
from kourou.client.transactions.transaction import Transaction
from kourou.core.errors import (
    ClientFault,
    Corrupted,
    DeadlineExceeded,
    KourouError,
    NotConnected,
    NotHere,
    OutcomeUnknown,
    TryLater,
)

__all__ = [
    "Batch",
    "Client",
    "ClientFault",
    "Consumer",
    "Corrupted",
    "Damage",
    "DamagedMessages",
    "DeadlineExceeded",
    "HalfMessage",
    "KourouError",
    "Message",
    "NotConnected",
    "NotHere",
    "OutcomeUnknown",
    "Producer",
    "Receipt",
    "Receipts",
    "ReceivedMessage",
    "SendFailed",
    "SharedConsumer",
    "SharedMessage",
    "Sql",
    "Transaction",
    "TryLater",
]
