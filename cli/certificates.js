// The certificate authorities that workerd trusts besides those of the system.
import { existsSync, readFileSync } from "node:fs";

// The files in which workerd looks for the system's authorities.
const SYSTEM = ["/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g;

/**
 * Certificates in PEM: those of NODE_EXTRA_CA_CERTS, and Node's own where the system has none, as in small container images.
 *
 * @param {Record<string, string | undefined>} env
 * @param {{ platform?: string, system?: string[] }} [machine]
 * @returns {Promise<string[]>}
 */
export async function extraCertificates(env, { platform = process.platform, system = SYSTEM } = {}) {
  const { NODE_EXTRA_CA_CERTS: file, SSL_CERT_FILE, SSL_CERT_DIR } = env;
  const isBare = platform === "linux" && !SSL_CERT_FILE && !SSL_CERT_DIR && !system.some((path) => existsSync(path));
  // Most starts do without this module, which takes some time to load.
  const own = isBare ? (await import("node:tls")).rootCertificates : [];
  return [...own, ...(file ? readCertificates(file) : [])];
}

/** @param {string} file */
function readCertificates(file) {
  try {
    return readFileSync(file, "utf8").match(CERTIFICATE) ?? [];
  } catch {
    return []; // Node has printed a warning
  }
}
