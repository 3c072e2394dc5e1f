"""The native client without asyncio: the same names, every call waits."""

from kourou.client.blocking.client import Batch, Client, Consumer, Producer
from kourou.client.message import Message, Receipt
from kourou.client.receipts import Receipts, SendFailed

__all__ = ["Batch", "Client", "Consumer", "Message", "Producer", "Receipt", "Receipts", "SendFailed"]
