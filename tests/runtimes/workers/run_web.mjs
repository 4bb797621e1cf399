// Runs cases in onnxruntime-web in headless Chromium; see harness.py. RUNTIME_PROVIDER is "wasm" or "webgpu".
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";

const packages = process.env.RUNTIME_PACKAGES;
const provider = process.env.RUNTIME_PROVIDER;
const puppeteer = createRequire(path.join(packages, "x.js"))("puppeteer-core");
const PROGRAMS = ["chromium", "google-chrome", "chrome"];
const SECONDS = 120;
const FLAGS = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
  ...(provider === "webgpu"
    ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    : ["--disable-gpu"]),
];
const SCRIPT = provider === "webgpu" ? "ort.webgpu.min.js" : "ort.min.js";
const MIME = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const PAGE = `<!doctype html><script src="/ort/${SCRIPT}"></script><script>
const TYPES = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array, bool: Uint8Array };
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const textOf = (bytes) => {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
};
async function runCase(name) {
  let stage = "load";
  try {
    if ("${provider}" === "webgpu" && !(await navigator.gpu?.requestAdapter())) {
      throw new Error("the browser has no WebGPU adapter");
    }
    ort.env.wasm.wasmPaths = location.origin + "/ort/";
    ort.env.wasm.numThreads = 1;
    const model = new Uint8Array(await (await fetch("/cases/" + name + "/model.onnx")).arrayBuffer());
    const options = { executionProviders: ["${provider}"], logSeverityLevel: 4 };
    const session = await ort.InferenceSession.create(model, options);
    stage = "run";
    const sets = {}, found = {};
    const stored = await (await fetch("/cases/" + name + "/inputs.json")).json();
    for (const [key, { dtype, shape, data }] of Object.entries(stored)) {
      const cut = key.indexOf("/");
      const tensor = new ort.Tensor(dtype, new TYPES[dtype](bytesOf(data).buffer), shape);
      (sets[key.slice(0, cut)] ??= {})[key.slice(cut + 1)] = tensor;
    }
    for (const [number, inputs] of Object.entries(sets)) {
      for (const [output, { type, dims, data }] of Object.entries(await session.run(inputs))) {
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        found[number + "/" + output] = { dtype: type, shape: [...dims].map(Number), data: textOf(bytes) };
      }
    }
    await session.release();
    return { found };
  } catch (error) {
    return { reason: stage + ": " + String(error?.message ?? error) };
  }
}
</script>`;

const [cases, out, ...names] = process.argv.slice(2);
fs.mkdirSync(out, { recursive: true });

const server = http.createServer((request, response) => {
  const parts = decodeURIComponent(new URL(request.url, "http://localhost").pathname).split("/").slice(1);
  if (parts[0] === "") return response.writeHead(200, { "Content-Type": "text/html" }).end(PAGE);
  const roots = { ort: path.join(packages, "onnxruntime-web", "dist"), cases };
  const file = path.join(roots[parts[0]] ?? os.devNull, ...parts.slice(1));
  if (!fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": MIME[path.extname(file)] ?? "application/octet-stream" });
  fs.createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const folders = (process.env.PATH ?? "").split(path.delimiter);
const executablePath = PROGRAMS.flatMap((name) => folders.map((folder) => path.join(folder, name))).find(fs.existsSync);
const userDataDir = fs.mkdtempSync(path.join(os.tmpdir(), "onnxruntime-web-"));
let browser, page;

async function open() {
  const options = { executablePath, headless: true, args: FLAGS, userDataDir, protocolTimeout: SECONDS * 1000 };
  browser = await puppeteer.launch(options);
  page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
}

for (const name of names.length ? names : fs.readdirSync(cases).sort()) {
  if (!fs.existsSync(path.join(cases, name, "case.json"))) continue;
  const file = path.join(out, name);
  for (const ending of [".json", ".txt"]) fs.rmSync(file + ending, { force: true });
  let result;
  try {
    if (!page) await open();
    result = await page.evaluate((one) => runCase(one), name);
  } catch (error) {
    result = { reason: `the browser: ${error.message}` };
    await browser?.close().catch(() => browser.process()?.kill("SIGKILL"));
    page = undefined; // the next case gets a new browser
  }
  if (result.found) {
    fs.writeFileSync(`${file}.json`, JSON.stringify(result.found));
  } else {
    const line = result.reason.split("\n").find((text) => text.trim()) ?? "";
    fs.writeFileSync(`${file}.txt`, line.slice(0, 200) + "\n");
  }
}
await browser?.close().catch(() => undefined);
fs.rmSync(userDataDir, { recursive: true, force: true });
server.close();
process.exit(0);
