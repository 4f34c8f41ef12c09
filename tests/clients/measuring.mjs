// What the page makes of the outputs of all slices: node measuring.mjs MEASURING_JS FILE -> JSON on stdout; FILE holds
// {volume, metadata}, the arguments of wholeVolume.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, file] = process.argv.slice(2);
const { wholeVolume } = await import(pathToFileURL(module));
const { volume, metadata } = JSON.parse(await readFile(file, "utf8"));
process.stdout.write(JSON.stringify(wholeVolume(volume, metadata)));
