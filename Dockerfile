# syntax=docker/dockerfile:1
# CPU image:  docker build -t altogether-rt .
# GPU image:  docker build -t altogether-rt:gpu --build-arg EXTRA=gpu .
# Use:        docker run --rm -v "$PWD/photos:/data" altogether-rt caption /data --out /data/captions.jsonl
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG EXTRA=cpu
WORKDIR /src
COPY . .
# The step that CI and `python3 tasks.py demo` run.
RUN python tasks.py install --extras "${EXTRA}" --venv /opt/altogether-rt

FROM python:${PYTHON}-slim
COPY --from=build /opt/altogether-rt /opt/altogether-rt
RUN useradd --create-home --uid 1000 caption
USER caption
WORKDIR /data
ENV PATH=/opt/altogether-rt/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["altogether-rt"]
CMD ["--help"]
