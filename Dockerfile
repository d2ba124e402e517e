# The CPU image; docs/operations.md says what makes it one for GPUs.
# docker build -t dia-server . && docker run -p 7860:7860 -v dia:/home/dia dia-server
# Add --stop-timeout 40 to `docker run`, so that running answers may end: `docker stop` waits 10 s otherwise.
FROM python:3.12-slim

# Workers that die are replaced, so process 1 must reap them: tini does.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 dia

COPY . /opt/dia-server
RUN pip install --no-cache-dir --constraint /opt/dia-server/constraints.txt /opt/dia-server

USER 1000
WORKDIR /home/dia
VOLUME /home/dia
ENV DIA_SERVER_HOST=0.0.0.0
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/health?ready', timeout=5)"]
ENTRYPOINT ["tini", "--", "dia-server"]
CMD ["serve"]
