/** The texts that all parts of the console share. */

import { words } from "./lib/words";

export const shared = words(
  "shared",
  {
    close: "Close",
    cancel: "Cancel",
    save: "Save",
    create: "Create",
    delete: "Delete",
    undo: "Undo",
    again: "Try again",
    copy: "Copy",
    copied: "Copied",
    loading: "Loading…",
    name: "Name",
    none: "None",
    more: "More",
    search: "Search",
    refused: "Your key may only read. Ask your operator for a key with scope write.",
  },
  {
    close: "关闭",
    cancel: "取消",
    save: "保存",
    create: "创建",
    delete: "删除",
    undo: "撤销",
    again: "重试",
    copy: "复制",
    copied: "已复制",
    loading: "加载中…",
    name: "名称",
    none: "无",
    more: "更多",
    search: "搜索",
    refused: "你的密钥只能读取。请向管理员索取具有 write 权限的密钥。",
  },
);
