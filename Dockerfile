# The server, ready to run. torch comes from the default index unless another one is named, so that CPU-only
# machines can have PyTorch's much smaller CPU wheels:
#
#     docker build -t camserve --build-arg TORCH_INDEX_URL=<address of the CPU or CUDA wheels> .
#     docker run -p 8000:8000 --read-only --tmpfs /tmp -v camserve-cache:/cache --stop-timeout 45 camserve

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# --no-deps: only these two may come from the other index; what they need comes with the rest, as pinned.
COPY constraints.txt ./
ARG TORCH_INDEX_URL=
RUN pip install --no-deps -c constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision

# The dependencies alone, so that a change in the code does not install them again.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY app app
RUN pip install --no-deps .


FROM python:3.12-slim
# A number, so that Kubernetes' runAsNonRoot can check it; a name as well, because torch asks for one.
RUN useradd --uid 10001 --no-create-home --home-dir /cache camserve \
    && install -d -o 10001 -g 10001 /cache

COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY models models

# /cache keeps downloaded weights and compiled trunks, and is the one place beside /tmp that is written to.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache \
    TORCH_HOME=/cache/torch \
    APP_HOST=0.0.0.0 \
    APP_PORT=8000

USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# Alive, not ready: there are orchestrators that kill what is unhealthy, and loading a model is no reason to.
# http.client, because urllib would send this to a proxy where HTTP_PROXY is set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['APP_PORT']), timeout=4); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]

# The exec form makes the server process 1, which is the one that gets the signal.
CMD ["python", "-m", "app", "serve"]
