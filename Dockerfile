# An image without Node: workerd, the Worker and two shell scripts, as a user of its own.
#   npm run package && docker build -t reprise .
#   docker run -p 127.0.0.1:8787:8787 -v reprise:/data reprise
FROM node:22-bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates
WORKDIR /installed
COPY dist/reprise-*.tgz reprise.tgz
RUN npm init --yes && npm install --no-audit --no-fund ./reprise.tgz
COPY container /container
RUN node /container/build-root.mjs /installed /image

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/opt /opt
COPY --from=build --chown=10001:10001 /image/data /data
USER 10001:10001
VOLUME /data
EXPOSE 8787
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["/opt/reprise/health.sh"]
ENTRYPOINT ["/opt/reprise/start.sh"]
