"""A man-in-the-middle for apache.rocketmq.v2: forwards every RPC to $UPSTREAM, prints method, client id
and both messages, and rewrites the endpoints in routes so that clients keep talking through it.
    UPSTREAM=127.0.0.1:18081 python tap.py 19081
TAP_MD=1 shows the metadata too. TAP_BREAK=<fault,...> makes the server behind look broken, to see that the
suite notices (mutants.sh): filter ack delay rollback digest attempt slow dup type check
"""
import itertools
import os
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import text_format
from rocketmq.grpc_protocol import service_pb2 as s

UP, PORT = os.environ["UPSTREAM"], int(sys.argv[1])
T0, N = time.time(), itertools.count(1)
SERVICE = s.DESCRIPTOR.services_by_name["MessagingService"]
lock = threading.Lock()


def show(tag, name, cid, msg=None):
    with lock:
        body = text_format.MessageToString(msg, as_one_line=True) if msg is not None else ""
        print(f"{time.time() - T0:8.3f} {tag} {name} [{cid}] {body[:1500]}", flush=True)


BREAK = set(filter(None, os.environ.get("TAP_BREAK", "").split(",")))


def spoil_request(name, r):
    if "filter" in BREAK and name == "ReceiveMessage":
        r.filter_expression.type, r.filter_expression.expression = 1, "*"
    if "delay" in BREAK and name == "SendMessage" and r.messages[0].system_properties.HasField("delivery_timestamp"):
        r.messages[0].system_properties.delivery_timestamp.seconds -= 2
    if "rollback" in BREAK and name == "EndTransaction":
        r.resolution = 1
    return r


def spoil_response(name, r):
    if name == "ReceiveMessage" and r.HasField("message"):
        sp = r.message.system_properties
        if "digest" in BREAK:
            sp.body_digest.checksum = sp.body_digest.checksum.lower()
        if "attempt" in BREAK:
            sp.delivery_attempt = 1
        if "slow" in BREAK:
            time.sleep(0.3)
    if "type" in BREAK and name == "QueryRoute":
        for q in r.message_queues:
            q.accept_message_types[:] = [1, 2, 3, 4]
    return r


def rewrite(msg):
    if hasattr(msg, "message_queues"):
        for q in msg.message_queues:
            for a in q.broker.endpoints.addresses:
                a.host, a.port = "127.0.0.1", PORT
    if hasattr(msg, "assignments"):
        for q in msg.assignments:
            for a in q.message_queue.broker.endpoints.addresses:
                a.host, a.port = "127.0.0.1", PORT
    return msg


chan = grpc.insecure_channel(UP, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        m = SERVICE.methods_by_name.get(name)
        if m is None:
            return None
        req_c, res_c = getattr(s, m.input_type.name, None), getattr(s, m.output_type.name, None)
        md = [(k, v) for k, v in details.invocation_metadata if not k.startswith(("user-agent", ":", "grpc-"))]
        cid = f"{dict(md).get('x-mq-client-id', '?')[-6:]}/{next(N)}"
        first = {"md": True}

        def log_req(r):
            if first.pop("md", None) and os.environ.get("TAP_MD"):
                show("MD ", name, cid + " " + repr(md))
            show("-->", name, cid, r)
            return spoil_request(name, r)

        def out(r):
            show("<--", name, cid, r)
            return rewrite(spoil_response(name, r))

        def unary(req, ctx):
            log_req(req)
            if "ack" in BREAK and name == "AckMessage":
                return out(s.AckMessageResponse(status={"code": 20000}))
            fn = chan.unary_unary(details.method, req_c.SerializeToString, res_c.FromString)
            try:
                return out(fn(req, metadata=md, timeout=ctx.time_remaining()))
            except grpc.RpcError as e:
                show("ERR", name, cid + f" {e.code()} {e.details()}")
                ctx.abort(e.code(), e.details())

        def sstream(req, ctx):
            log_req(req)
            fn = chan.unary_stream(details.method, req_c.SerializeToString, res_c.FromString)
            try:
                for r in fn(req, metadata=md, timeout=ctx.time_remaining()):
                    yield out(r)
                    if "dup" in BREAK and r.HasField("message"):
                        yield out(r)
            except grpc.RpcError as e:
                show("ERR", name, cid + f" {e.code()} {e.details()}")

        def bidi(it, ctx):
            fn = chan.stream_stream(details.method, req_c.SerializeToString, res_c.FromString)
            call = fn((log_req(r) for r in it), metadata=md)
            ctx.add_callback(call.cancel)
            try:
                for r in call:
                    if "check" in BREAK and r.HasField("recover_orphaned_transaction_command"):
                        continue
                    yield out(r)
            except grpc.RpcError as e:
                show("END", name, cid + f" {e.code()} {e.details()}")

        if name == "Telemetry":
            return grpc.stream_stream_rpc_method_handler(bidi, req_c.FromString, res_c.SerializeToString)
        if name in ("ReceiveMessage", "PullMessage"):
            return grpc.unary_stream_rpc_method_handler(sstream, req_c.FromString, res_c.SerializeToString)
        return grpc.unary_unary_rpc_method_handler(unary, req_c.FromString, res_c.SerializeToString)


server = grpc.server(futures.ThreadPoolExecutor(512), handlers=[Handler()],
                     options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
server.add_insecure_port(f"127.0.0.1:{PORT}")
server.start()
print("tap on", PORT, "->", UP, flush=True)
server.wait_for_termination()
