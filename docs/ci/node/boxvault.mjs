#!/usr/bin/env node
// Uploads a box and lists boxes; streams from the disk and goes on after a cut. Node 18 or newer, no packages.
//
//   export BOXVAULT_URL=... BOXVAULT_CLIENT_ID=... BOXVAULT_CLIENT_SECRET=...
//   node boxvault.mjs ubuntu.box myorg ubuntu-20.04 1.0.0 virtualbox amd64
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

export class BoxVaultClient {
  static async signIn(baseUrl, clientId, clientSecret) {
    const client = new BoxVaultClient();
    client.baseUrl = baseUrl.replace(/\/$/, "");
    const login = await client.call("/api/auth/service-account", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ clientId, clientSecret }),
    });
    client.token = login.accessToken;
    return client;
  }

  async call(path, options = {}) {
    const headers = { ...options.headers, ...(this.token && { "x-access-token": this.token }) };
    const answer = await fetch(this.baseUrl + path, { ...options, headers });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  listBoxes(org) {
    return this.call(`/api/organization/${org}/box`);
  }

  async uploadBox(file, org, box, version, provider, arch, tries = 8) {
    const path = `/api/organization/${org}/box/${box}/version/${version}/provider/${provider}/architecture/${arch}/file/upload`;
    const { size } = await stat(file);
    const hash = createHash("sha256");
    await pipeline(createReadStream(file), hash);
    const digest = hash.digest("hex");
    for (let attempt = 0; attempt < tries; attempt++) {
      const offset = await this.#offset(path, size);
      let wait = 2 ** attempt;
      try {
        const answer = await this.#send(path, file, offset, size, digest);
        if (answer.status < 300) return JSON.parse(answer.text);
        // What rested may have been of another file: 409 or 422, and then nothing rests any more.
        const again = offset ? [409, 422, 429, 500, 502, 503, 504] : [429, 500, 502, 503, 504];
        if (!again.includes(answer.status)) throw new Error(`${answer.status} ${answer.text}`);
        wait = Number(answer.headers["retry-after"] ?? wait);
      } catch (error) {
        if (!error.code) throw error; // not of the network
      }
      await sleep(Math.min(wait, 60) * 1000);
    }
    throw new Error(`${file} was not uploaded in ${tries} tries`);
  }

  // How much of an upload that was cut is there already.
  async #offset(path, size) {
    try {
      const { uploads } = await this.call(path);
      return uploads.find((u) => u.kind === "raw" && u.fileSize === size)?.offset ?? 0;
    } catch {
      return 0;
    }
  }

  // Not by `fetch`, which sends a stream without its length.
  #send(path, file, offset, size, digest) {
    const url = new URL(this.baseUrl + path);
    const headers = {
      "Content-Length": size - offset,
      "x-access-token": this.token,
      "x-checksum": digest,
      "x-checksum-type": "SHA256",
      ...(offset && { "Content-Range": `bytes ${offset}-${size - 1}/${size}` }),
    };
    return new Promise((resolve, reject) => {
      const request = (url.protocol === "https:" ? https : http).request(url, { method: offset ? "PUT" : "POST", headers });
      request.on("error", reject);
      request.on("response", async (response) => {
        let text = "";
        try {
          for await (const piece of response) text += piece;
          resolve({ status: response.statusCode, headers: response.headers, text });
        } catch (error) {
          reject(error);
        }
      });
      pipeline(createReadStream(file, { start: offset }), request).catch(reject);
    });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [file, org, ...place] = process.argv.slice(2);
  const { BOXVAULT_URL, BOXVAULT_CLIENT_ID, BOXVAULT_CLIENT_SECRET } = process.env;
  const client = await BoxVaultClient.signIn(BOXVAULT_URL, BOXVAULT_CLIENT_ID, BOXVAULT_CLIENT_SECRET);
  console.log((await client.uploadBox(file, org, ...place)).message);
  console.log(`${org} has ${(await client.listBoxes(org)).length} boxes`);
}
