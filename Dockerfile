# syntax=docker/dockerfile:1
# One image for web processes and workers: compose.yaml says which is which. It holds no secret and needs none to be built.

FROM python:3.11-slim AS build
WORKDIR /app
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt
COPY manage.py ./
COPY project project
COPY chat chat
COPY templates templates
COPY static static
# DEBUG=1 would leave the names without hashes; the key signs nothing and is not kept.
RUN SECRET_KEY=only-while-this-image-is-built ALLOWED_HOSTS=build.invalid VAR_DIR=/var/chat \
    /venv/bin/python manage.py collectstatic --no-input --verbosity 0 \
    && /venv/bin/python -m compileall -q /app

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /app --no-create-home chat
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY --from=build /var/chat/static /var/chat/static
RUN mkdir /var/chat/media && chown chat /var/chat /var/chat/media
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 VAR_DIR=/var/chat HOST=0.0.0.0 PORT=8000
USER chat
EXPOSE 8000
# Of a web process. compose.yaml turns it off for workers, who listen to nobody.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
# By exec, so that SIGTERM reaches it: it drains.
CMD ["python", "manage.py", "serve"]
