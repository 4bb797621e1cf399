// Runs cases in onnxruntime-node; see harness.py. Each case has a process of its own.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const TYPES = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, int8: Int8Array,
  uint8: Uint8Array, bool: Uint8Array,
};

function decode(text, Tensor) {
  const sets = {};
  for (const [key, { dtype, shape, data }] of Object.entries(JSON.parse(text))) {
    const bytes = new Uint8Array(Buffer.from(data, "base64")); // a copy, which starts at a multiple of 8
    const [number, name] = [key.slice(0, key.indexOf("/")), key.slice(key.indexOf("/") + 1)];
    (sets[number] ??= {})[name] = new Tensor(dtype, new TYPES[dtype](bytes.buffer), shape);
  }
  return sets;
}

async function runCase(folder, file) {
  let stage = "load";
  try {
    const ort = createRequire(path.join(process.env.RUNTIME_PACKAGES, "x.js"))("onnxruntime-node");
    const session = await ort.InferenceSession.create(path.join(folder, "model.onnx"), {
      intraOpNumThreads: 1, logSeverityLevel: 4,
    });
    stage = "run";
    const found = {};
    const sets = decode(fs.readFileSync(path.join(folder, "inputs.json"), "utf8"), ort.Tensor);
    for (const [number, inputs] of Object.entries(sets)) {
      const outputs = await session.run(inputs);
      for (const [name, { type, dims, data }] of Object.entries(outputs)) {
        const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
        found[`${number}/${name}`] = { dtype: type, shape: dims.map(Number), data: bytes.toString("base64") };
      }
    }
    fs.writeFileSync(`${file}.json`, JSON.stringify(found));
  } catch (error) {
    const lines = String(error?.message ?? error).replaceAll(folder + "/", "").split("\n");
    const line = lines.find((text) => text.trim()) ?? "";
    fs.writeFileSync(`${file}.txt`, `${stage}: ${line}`.slice(0, 200) + "\n");
  }
  process.exit(0);
}

const [cases, out, ...names] = process.argv.slice(2);
if (cases === "--one") {
  await runCase(out, names[0]);
}
fs.mkdirSync(out, { recursive: true });
for (const name of names.length ? names : fs.readdirSync(cases).sort()) {
  const [folder, file] = [path.join(cases, name), path.join(out, name)];
  if (!fs.existsSync(path.join(folder, "case.json"))) continue;
  for (const ending of [".json", ".txt"]) fs.rmSync(file + ending, { force: true });
  const command = [process.argv[1], "--one", folder, file];
  const done = spawnSync(process.execPath, command, { timeout: 120000, stdio: "ignore" });
  if (!fs.existsSync(`${file}.json`) && !fs.existsSync(`${file}.txt`)) {
    const reason = done.error ? "it did not end within 120 s" : `the process crashed: ${done.signal ?? done.status}`;
    fs.writeFileSync(`${file}.txt`, reason + "\n");
  }
}
