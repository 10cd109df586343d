// Bundles the page: `node build.js FOLDER` writes app.js and app.css there; `node build.js --tests` the tests.
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const common = { absWorkingDir: here, bundle: true, charset: "ascii", logLevel: "warning" };

/** The licences of the packages that end up in the bundle: they ask to stand beside the code. */
function licences(inputs) {
  const names = new Set(Object.keys(inputs).flatMap((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1] ?? []));
  const texts = new Map();
  for (const name of [...names].sort()) {
    const folder = join(here, "node_modules", name);
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = readFileSync(join(folder, file), "utf8").trim().replaceAll("*/", "* /");
    texts.set(text, [...(texts.get(text) ?? []), name]);
  }
  return `/*!\n${[...texts].map(([text, of]) => `${of.join(", ")}:\n\n${text}`).join("\n\n")}\n*/`;
}

if (process.argv[2] === "--tests") {
  await build({ ...common, entryPoints: ["test/tests.ts"], outfile: "build/tests.js", platform: "node", format: "esm" });
} else {
  const page = {
    ...common,
    entryPoints: { app: "src/main.tsx" },
    minify: true,
    format: "iife",
    target: ["chrome110", "firefox113", "safari16.4"],
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
  };
  const { metafile } = await build({ ...page, outdir: "build", metafile: true, write: false });
  await build({ ...page, outdir: process.argv[2], banner: { js: licences(metafile.inputs) } });
}
