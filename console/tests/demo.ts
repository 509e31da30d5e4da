/** What a Bay has on a good day, for the pictures: all of it is made by the public API, and all of it is real. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { type Box, Client } from "bay-sandbox";
import { bay, URL_OF_BAY } from "./world";

const DAY_S = 86_400;

/** The shop's figures, as a script that a person would keep. */
const REPORT = `"""The week's sales by product, as a table and a chart."""

import pandas as pd

PRICES = {"espresso": 2.40, "flat white": 3.80, "cold brew": 4.20}


def load(path: str = "data/sales.csv") -> pd.DataFrame:
    """All sales, with what each brought in."""
    sales = pd.read_csv(path, parse_dates=["day"])
    sales["revenue"] = sales["sold"] * sales["product"].map(PRICES)
    return sales


def by_product(sales: pd.DataFrame) -> pd.DataFrame:
    """The revenue of each day, a column for each product."""
    return sales.pivot_table(index="day", columns="product", values="revenue")


if __name__ == "__main__":
    print(by_product(load()).round(2))
`;

const README = `# Sales report

The week's sales of the **three coffee bars**, from the tills to a chart.

| step | file | takes |
|---|---|---:|
| load | \`report.py\` | 0.2 s |
| chart | \`chart.py\` | 0.9 s |
| mail | \`send.py\` | 0.1 s |

## Run it

\`\`\`sh
python3 report.py --week 32
\`\`\`

1. The tills write \`data/sales.csv\` each night.
2. \`report.py\` adds the prices.
3. The chart goes to \`out/week.png\`.

> Cold brew has sold out on Saturday since June.
`;

const SOLD: Readonly<Record<string, readonly number[]>> = {
  espresso: [182, 176, 190, 201, 240, 312, 268],
  "flat white": [121, 118, 126, 140, 171, 233, 205],
  "cold brew": [64, 71, 69, 92, 118, 187, 149],
};

function sales(): string {
  const rows = Object.entries(SOLD).flatMap(([product, week]) =>
    week.map((sold, day) => `2026-08-0${day + 3},${product},${sold}`),
  );
  return `day,product,sold\n${rows.join("\n")}\n`;
}

const SHOP = `<!doctype html><html lang=en><meta charset=utf-8><title>Harbour Coffee</title><style>
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#2b1d14;background:#fbf6ef}
header{display:flex;gap:2rem;align-items:center;padding:1rem 2rem;background:#2b1d14;color:#fbf6ef}
header b{font-size:1.25rem;flex:1}main{padding:2rem;max-width:60rem;margin:auto}
h1{font-size:1.9rem;margin:0 0 .25rem}ul{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1rem;padding:0;list-style:none}
li{background:#fff;border:1px solid #eadfce;border-radius:.9rem;padding:1.1rem}li i{display:block;height:5rem;border-radius:.6rem;margin-bottom:.8rem}
button{float:right;border:0;border-radius:.5rem;background:#b4552d;color:#fff;padding:.35rem .8rem;font:inherit}
</style><header><b>Harbour Coffee</b><span>Beans</span><span>Bars</span><span>Basket (2)</span></header>
<main><h1>Roasted on Tuesday</h1><p>Three coffees of this week, sent on the same day.</p><ul>
<li><i style="background:linear-gradient(120deg,#6f3b1f,#c98a4b)"></i><b>Espresso blend</b><br>250 g · 8.40 € <button>Add</button>
<li><i style="background:linear-gradient(120deg,#9c6b3f,#ecd2a2)"></i><b>Flat white</b><br>250 g · 9.20 € <button>Add</button>
<li><i style="background:linear-gradient(120deg,#22343a,#7fb0b6)"></i><b>Cold brew</b><br>1 l · 11.00 € <button>Add</button>
</ul></main>`;

const STOCK = `import itertools, time
for n in itertools.count(1):
    print("stock is counted:", 300 - n % 40, "bags", flush=True)
    time.sleep(5)
`;

const MAILER = `raise SystemExit("mailer: MAIL_HOST is not set")
`;

/** The processor's and memory's use goes up and down, as a queue of orders has it. */
const WORKER = `import hashlib, time
kept, step = [], 0
while True:
    step += 1
    busy = 0.12 + 0.5 * ((step % 24) / 24) ** 2
    until = time.monotonic() + busy * 2
    while time.monotonic() < until:
        hashlib.sha256(b"order" * 4096).digest()
    kept.append(bytearray(1 << 20)) if step % 24 < 18 else kept.clear()
    open("out/orders.log", "a").write("order %d\\n" % step * 400)
    time.sleep(2 - busy * 2)
`;

/** Ask for a name, as a program does that has a tracker or a package of its own. */
function lookUp(...names: string[]): string[] {
  return [
    "python3",
    "-c",
    `import socket\nfor name in ${JSON.stringify(names)}:\n  try: socket.getaddrinfo(name, 443)\n  except OSError: pass`,
  ];
}

async function salesReport(): Promise<Box> {
  const box = await bay.sandboxes.create({
    name: "sales-report",
    wait: 60,
    labels: { team: "data", stage: "dev" },
    memoryMb: 512,
  });
  await box.files.write("data/sales.csv", sales());
  await box.files.write("report.py", REPORT);
  await box.files.write("README.md", README);
  await box.run(
    "mkdir -p out && git init -q -b main . && git config user.name Ana && git config user.email ana@example.com",
  );
  await box.files.write(".gitignore", "out/\n__pycache__/\n");
  await box.run("git add -A && git commit -qm 'Sales of the week as a table'");
  await box.files.write("orders.py", WORKER);
  await box.services.put({ name: "orders", argv: ["python3", "orders.py"] });
  return box;
}

/** Checkpoints with a branch: a mistake, the way back, and another way on. */
async function history(box: Box): Promise<void> {
  await box.checkpoint({ name: "first-table", comment: "the table is right" });
  await box.files.write(
    "chart.py",
    "import matplotlib.pyplot as plt\n\nfrom report import by_product, load\n\nby_product(load()).plot()\nplt.savefig('out/week.png')\n",
  );
  await box.run("git add -A && git commit -qm 'Draw the week as lines'");
  const lines = await box.checkpoint({ name: "with-chart", comment: "lines, a colour for each product" });
  await box.files.write("report.py", REPORT.replace("3.80", "38.0"));
  await box.run("git add -A && git commit -qm 'New prices'");
  await box.checkpoint({ name: "new-prices", comment: "flat white is wrong by ten" });
  await box.restore(lines);
  await box.start({ wait: 60 });
  await box.files.write(
    "chart.py",
    "import matplotlib.pyplot as plt\n\nfrom report import by_product, load\n\nby_product(load()).plot.bar(stacked=True)\nplt.savefig('out/week.png')\n",
  );
  await box.run("git add -A && git commit -qm 'Draw the week as bars'");
  const bars = await box.checkpoint({ name: "as-bars", comment: "easier to read" });
  const [fork] = await box.fork({ checkpoint: bars, name: "sales-trial" });
  await fork?.update({ labels: { team: "data", stage: "trial" } });
  await box.files.write("send.py", "import smtplib\n\nprint('to:', 'team@example.com')\n");
  await box.files.write("data/prices.csv", "product,price\nespresso,2.40\nflat white,3.80\ncold brew,4.20\n");
  await box.run("git add -A && git commit -qm 'Send the report'");
  await box.checkpoint({ name: "ready-to-send" });
}

async function commands(box: Box): Promise<void> {
  await box.run("python3 report.py");
  await box.run("python3 -m compileall -q . && echo compiled");
  await box.run(["git", "log", "--oneline"]);
  await box.run("python3 report.py --week 53 && cat data/week-53.csv").catch(() => undefined);
  await box.spawn(
    'for step in 1 2 3 4 5; do echo "[$step/5] order batch $((step * 120)) is billed"; sleep 1; done; sleep 3600',
  );
}

async function webShop(): Promise<void> {
  const box = await bay.sandboxes.create({
    name: "web-shop",
    wait: 60,
    labels: { team: "web", stage: "preview" },
    url: 8000,
  });
  await box.files.write("public/index.html", SHOP);
  await box.services.put(
    {
      name: "shop",
      argv: ["python3", "-m", "http.server", "8000", "--directory", "public"],
      http_port: 8000,
    },
    { wait: 60 },
  );
  await box.files.write("stock.py", STOCK);
  await box.services.put({ name: "stock", argv: ["python3", "stock.py"], needs: ["shop"] });
  await box.files.write("mailer.py", MAILER);
  await box.services.put({ name: "mailer", argv: ["python3", "mailer.py"], restart: "on-failure" });
  await box.waitFor(8000);
  for (let visit = 0; visit < 20; visit += 1) await (await box.fetch(8000)).text();
}

async function crawler(): Promise<void> {
  const box = await bay.sandboxes.create({
    name: "crawler",
    wait: 60,
    labels: { team: "data", agent: "reader" },
  });
  await box.network.set("allowlist", [
    { action: "allow", domain: "*.python.org", ports: [443], protocol: "tcp" },
    { action: "allow", domain: "en.wikipedia.org", ports: [443], protocol: "tcp" },
    { action: "allow", cidr: "151.101.0.0/16", ports: [443], protocol: "tcp" },
    { action: "deny", domain: "ads.python.org" },
  ]);
  for (let again = 0; again < 3; again += 1) {
    await box.run(
      lookUp(
        "docs.python.org",
        "en.wikipedia.org",
        "tracker.example.net",
        "metrics.example.com",
        "ads.python.org",
      ),
    );
  }
  await box.run(lookUp("tracker.example.net", "paste.example.org"));
}

/** Sandboxes that rest: frozen in memory, and without compute. */
async function resting(): Promise<void> {
  const [review, nightly] = await Promise.all([
    bay.sandboxes.create({
      name: "review-agent",
      wait: 60,
      labels: { agent: "reviewer", issue: "4812" },
      ttl: "7d",
    }),
    bay.sandboxes.create({ name: "nightly-tests", wait: 60, labels: { team: "web", stage: "ci" } }),
  ]);
  await review.run("git init -q shop && echo reviewed");
  await review.pause();
  await nightly.run("echo 214 passed");
  await nightly.stop();
  await bay.sandboxes.create({ name: "workshop-01", labels: { course: "python" }, ttl: "2h" });
  await bay.sandboxes.create({ name: "workshop-02", labels: { course: "python" }, ttl: "2h" });
}

/** An image of an archive, and a template of a sandbox of it. */
async function images(archive: AsyncIterable<Uint8Array>): Promise<void> {
  await bay.images.importArchive(archive, "debian:13");
  const box = await bay.sandboxes.create({
    name: "toolbox",
    image: "debian:13",
    profile: "machine",
    wait: 60,
  });
  await box.run("mkdir -p /workspace/tools && echo 'export EDITOR=vim' > /workspace/tools/profile");
  await bay.templates.create("toolbox", "toolbox", { startCommand: "sleep infinity" });
  await bay.templates.tag("toolbox", "toolbox:2026-08");
  await bay.templates.create("course", "toolbox", { tag: "python" });
  await box.stop();
}

/** Keys of several owners, one of whom has done something. */
async function owners(): Promise<void> {
  const ci = await bay.keys.create("ci", {
    owner: "web",
    scope: "write",
    expiresIn: 90 * DAY_S,
    quotas: { sandboxes: 10 },
  });
  await bay.keys.create("dashboard", { owner: "web", scope: "read" });
  await bay.keys.create("ana's laptop", { owner: "data", scope: "write" });
  const old = await bay.keys.create("old laptop", { owner: "data", scope: "write" });
  await bay.keys.revoke(old.id);
  using web = new Client({ baseUrl: URL_OF_BAY, apiKey: ci.secret ?? "" });
  const box = await web.sandboxes.create({ name: "build-881", wait: 60, labels: { branch: "main" } });
  await box.run("echo 'tests: 96 passed'");
  await box.delete();
}

/** A receiver that takes what it is sent, and one that is broken. */
export class Receivers {
  private readonly servers: Server[] = [];

  async begin(): Promise<void> {
    const taking = await this.receiver(204);
    const broken = await this.receiver(500);
    await bay.webhooks.create(`${taking}/hooks/deploy`, [
      "sandbox.created",
      "sandbox.ready",
      "sandbox.deleted",
    ]);
    await bay.webhooks.create(`${taking}/hooks/all`);
    await bay.webhooks.create(`${broken}/hooks/chat`, [
      "sandbox.failed",
      "sandbox.stopped",
      "sandbox.paused",
    ]);
  }

  async end(): Promise<void> {
    for (const { id } of await bay.webhooks.list()) await bay.webhooks.delete(id);
    await Promise.all(this.servers.map((server) => new Promise((done) => server.close(done))));
  }

  private async receiver(status: number): Promise<string> {
    const server = createServer((asked, answer) => {
      asked.resume();
      asked.on("end", () => answer.writeHead(status).end());
    });
    this.servers.push(server);
    await new Promise<void>((begun) => server.listen(0, "127.0.0.1", begun));
    return `http://localhost:${(server.address() as AddressInfo).port}`;
  }
}

/** Make all of it. */
export async function makeDemo(archive: AsyncIterable<Uint8Array>): Promise<void> {
  await owners();
  await images(archive);
  await resting();
  await webShop();
  await crawler();
  const box = await salesReport();
  await history(box);
  await commands(box);
}

/** The cells of the notebook: a table of the sales, and a figure of them. */
export const CELLS: readonly string[] = [
  "from report import by_product, load\n\nsales = load()\nby_product(sales).round(2)",
  [
    "import matplotlib.pyplot as plt",
    "",
    'plt.style.use("ggplot")',
    "ax = by_product(sales).plot.area(figsize=(8, 3.2), alpha=0.75)",
    'ax.set(title="Revenue of the week", ylabel="€ a day", xlabel="")',
    "plt.tight_layout()",
  ].join("\n"),
];
