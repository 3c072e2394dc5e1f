"""The routes that a client goes by: what nameservers said last, as far as it can be believed. Pure.

A nameserver that has just started knows nothing: it calls topics missing whose brokers have not found it yet. So a topic
that is known is only dropped by a nameserver that knows a broker of its last route and yet not the topic.
"""

from __future__ import annotations

from typing import Any

from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint, TopicRoute, parse_endpoint


class RouteTable:
    def __init__(self) -> None:
        self.routes: dict[str, TopicRoute] = {}
        self.masters: dict[str, Endpoint | None] = {}  # by broker; None: away at present

    def take(self, answer: dict[str, Any]) -> None:
        """An answer to ROUTE, or a ROUTE_CHANGED. Raises BadRequest when it is not one."""
        try:
            fresh = [TopicRoute.from_json(value) for value in answer.get("routes", ())]
            missing = [str(topic) for topic in answer.get("missing", ())]
            listed = {
                str(entry["broker"]): parse_endpoint(entry["master"]) if entry["master"] else None
                for entry in answer.get("brokers", ())
            }
        except (KeyError, TypeError, AttributeError) as failure:
            raise BadRequest(f"an answer about routes does not parse: {failure!r}") from None
        for route in fresh:
            self.routes[route.topic] = route
        for topic in missing:
            known = self.routes.get(topic)
            if known is not None and any(place.broker in listed for place in known.brokers):
                del self.routes[topic]
        before = self.masters
        if "brokers" in answer:
            self.masters = listed
        for route in self.routes.values():
            for place in route.brokers:
                if place.broker not in self.masters:
                    self.masters[place.broker] = before.get(place.broker) or place.master
