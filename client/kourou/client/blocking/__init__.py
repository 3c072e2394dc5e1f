"""The native client without asyncio: the same names, every call waits."""

from kourou.client.blocking.client import Batch, Client, Consumer, Producer
from kourou.client.blocking.shared import SharedConsumer, SharedMessage
from kourou.client.blocking.transactions import Transaction
from kourou.client.message import Message, Receipt
from kourou.client.receipts import Receipts, SendFailed
from kourou.client.shared.options import Sql

__all__ = [
    "Batch",
    "Client",
    "Consumer",
    "Message",
    "Producer",
    "Receipt",
    "Receipts",
    "SendFailed",
    "SharedConsumer",
    "SharedMessage",
    "Sql",
    "Transaction",
]
