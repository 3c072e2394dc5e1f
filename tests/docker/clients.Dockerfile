# Clients of both kinds: the image of our servers, which has our client and its Python, and the official Python client.
# The programs are mounted at /repository.
ARG SERVER
FROM ${SERVER}
ARG OFFICIAL
ARG PIP_INDEX_URL=
USER root
RUN [ -n "$PIP_INDEX_URL" ] || unset PIP_INDEX_URL; /opt/kourou/bin/pip install --no-cache-dir "$OFFICIAL" pytest
ENV PYTHONPATH=/repository:/repository/proto:/repository/core:/repository/nameserver:/repository/broker:/repository/client \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /repository
ENTRYPOINT []
CMD ["python3", "-m", "tests.chaos.workload", "--help"]
