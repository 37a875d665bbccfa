// Opens /docs as a person would: looks at what is listed, is refused without a token, types one in, lists
// organizations and makes one with the example of the page. Prints what it saw; the test judges it.
//
//   page.mjs           only starts the browser and prints its version
//   page.mjs PORT      the page of the service there
//
// Environment: TOKEN; CHROMIUM, where the one from npm does not run (it is for Linux on x86_64); PICTURE, a file
// for what it saw last.
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import puppeteer from "puppeteer-core";

// The browser is unpacked there, and has its profile there.
process.env.TMPDIR = fileURLToPath(new URL("tmp", import.meta.url));
mkdirSync(process.env.TMPDIR, { recursive: true });

// A name, so that the page cannot tell that it is at home: some pages ask the internet only elsewhere.
const HOST = "authority.example";

const [, , port] = process.argv;
const seen = { requests: [], messages: [] };

async function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  // With this it also brings the libraries that Chromium needs and a bare machine lacks.
  process.env.AWS_LAMBDA_JS_RUNTIME = "nodejs20.x";
  const path = await (await import("@sparticuz/chromium")).default.executablePath();
  // It has its fonts looked for in /tmp, wherever it is unpacked, and without any it crashes.
  const fonts = `${process.env.TMPDIR}/fonts`;
  process.env.FONTCONFIG_FILE = `${fonts}/here.conf`;
  const config = `<fontconfig><dir>${fonts}</dir><cachedir>${fonts}/cache</cachedir></fontconfig>`;
  writeFileSync(process.env.FONTCONFIG_FILE, `<?xml version="1.0"?>${config}`);
  return path;
}

const browser = await puppeteer.launch({
  executablePath: await executable(),
  headless: "shell",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    `--host-resolver-rules=MAP ${HOST} 127.0.0.1, MAP * ~NOTFOUND`,
  ],
});

try {
  if (port) await visit();
  else console.log(await browser.version());
} catch (error) {
  error.message += ` ${JSON.stringify(seen)}`;
  throw error;
} finally {
  await browser.close();
}

async function visit() {
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 1600 });
  page.on("request", (request) => {
    if (!request.url().startsWith("data:")) seen.requests.push(request.url());
  });
  page.on("console", (message) => {
    if (message.type() === "error") seen.messages.push(message.text());
  });
  page.on("pageerror", (error) => seen.messages.push(String(error)));
  await page.goto(`http://${HOST}:${port}/docs/`, { waitUntil: "networkidle0" });
  await page.waitForSelector(".opblock");
  seen.title = await page.$eval(".info .title", (title) => title.firstChild.textContent.trim());
  seen.operations = await page.$$eval(".opblock", (blocks) => blocks.map((block) => block.id.split("-").at(-1)));

  seen.refused = await execute(page, "organizations-list_organizations");
  await authorize(page, process.env.TOKEN);
  seen.listed = await execute(page, "organizations-list_organizations");
  seen.onboarded = await execute(page, "organizations-onboard_organization");
  if (process.env.PICTURE) await page.screenshot({ path: process.env.PICTURE });
  console.log(JSON.stringify(seen));
}

/** Clicks what is there once it is there. */
async function click(page, selector) {
  await page.waitForSelector(selector, { visible: true });
  await page.$eval(selector, (element) => element.click());
}

/** Types a token into "Authorize". */
async function authorize(page, token) {
  await click(page, ".scheme-container .btn.authorize");
  const input = await page.waitForSelector(".auth-container input[type=text], .auth-container input[type=password]");
  await input.type(token);
  await click(page, ".auth-container .btn.authorize");
  await click(page, ".auth-container .btn-done");
}

/** Opens an operation, sends what the page proposes for it, and gives the status and the body that it shows. */
async function execute(page, operation) {
  const block = `#operations-${operation}`;
  if (!(await page.$(`${block}.is-open`))) await click(page, `${block} .opblock-summary-control`);
  if (!(await page.$(`${block} .execute`))) await click(page, `${block} .try-out__btn`);
  const answered = page.waitForResponse((response) => response.url().includes("/api/v1/"));
  await click(page, `${block} .execute`);
  const status = (await answered).status();
  const shown = `${block} .live-responses-table tbody .response-col_status`;
  const is_shown = (selector, wanted) => document.querySelector(selector)?.textContent.includes(wanted);
  await page.waitForFunction(is_shown, {}, shown, String(status));
  const body = await page.$eval(`${block} .live-responses-table tbody .response-col_description`, (cell) => cell.textContent);
  return { status, body };
}
