// npm's @huggingface/inference against a server: node inference_client.mjs URL PICTURE -> JSON on stdout.
import { readFile } from "node:fs/promises";

import { InferenceClient } from "@huggingface/inference";

const [url, path] = process.argv.slice(2);
const data = new Blob([await readFile(path)], { type: "image/png" });
const untyped = new Blob([await readFile(path)]);
const client = new InferenceClient("hf_thisMustNeverBeSeen");
const classify = { endpointUrl: `${url}/image-classification` };

// Of these two tasks the client sends parameters with segmentation only.
const refused = await client
  .imageSegmentation({ endpointUrl: url, inputs: data, parameters: { threshold: 2 } })
  .then(() => "answered", (error) => error.message);

process.stdout.write(
  JSON.stringify({
    segmentation: await client.imageSegmentation({ endpointUrl: url, inputs: data }),
    segmentationOfUntyped: await client.imageSegmentation({ endpointUrl: `${url}/models/org/x`, inputs: untyped }),
    classification: await client.imageClassification({ ...classify, data }),
    classificationOfInputs: await client.imageClassification({ ...classify, inputs: untyped }),
    strict: await client.imageSegmentation({ endpointUrl: url, inputs: data, parameters: { threshold: 1 } }),
    refused,
  }),
);
