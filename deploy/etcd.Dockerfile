# etcd in an image: docker build --file deploy/etcd.Dockerfile --tag kourou-etcd deploy
#
# By default Debian's etcd (3.4.23) on the same BASE as deploy/Dockerfile: one Debian mirror is enough, no registry is needed,
# and it is what our tests run on. A current one, where a registry is reachable: --build-arg ETCD=quay.io/coreos/etcd:v3.5.21
# (it keeps its data as another user: begin with an empty volume).
ARG BASE=debian:bookworm-slim
ARG ETCD=debian

FROM ${BASE} AS debian
RUN apt-get update && \
    apt-get install --yes --no-install-recommends etcd-server etcd-client && \
    rm -rf /var/lib/apt/lists/*
RUN groupadd --system --gid 10002 kourou-etcd && \
    useradd --system --uid 10002 --gid kourou-etcd --home-dir /etcd --no-create-home --shell /usr/sbin/nologin kourou-etcd && \
    install -d -o kourou-etcd -g kourou-etcd -m 0700 /etcd
USER kourou-etcd

# "debian" is the stage above; anything else is an image that has etcd and etcdctl
FROM ${ETCD}
ENV ETCDCTL_API=3
VOLUME /etcd
EXPOSE 2379 2380
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
    CMD ["etcdctl", "--endpoints", "http://127.0.0.1:2379", "endpoint", "health"]
ENTRYPOINT []
CMD ["etcd", "--data-dir", "/etcd"]
