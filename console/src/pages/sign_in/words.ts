import { words } from "@/lib/words";

export const signInWords = words(
  "sign_in",
  {
    title: "Sign in to Bay",
    key: "API key",
    hint: "bay serve shows the first key at its first start and writes it to admin.key in its data directory.",
    enter: "Sign in",
    over: "Your sign-in has ended: the key was revoked, or its time is over.",
    left: "You are signed out.",
    orOpen: "On the machine that runs Bay, this opens the console signed in:",
    docs: "Documentation",
    wrong: "Type the whole key, such as bay_…",
    show: "Show the key",
  },
  {
    title: "登录 Bay",
    key: "API 密钥",
    hint: "bay serve 首次启动时会显示第一个密钥，并写入数据目录中的 admin.key。",
    enter: "登录",
    over: "登录已失效：密钥已被吊销，或已过期。",
    left: "你已退出登录。",
    orOpen: "在运行 Bay 的机器上，此命令会打开已登录的控制台：",
    docs: "文档",
    wrong: "请输入完整的密钥，例如 bay_…",
    show: "显示密钥",
  },
);
