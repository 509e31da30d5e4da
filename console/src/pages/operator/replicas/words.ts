import { words } from "@/lib/words";

export const replicaWords = words(
  "replicas",
  {
    title: "Replicas",
    about:
      "The Bays that share one database, and which part of the work each does. Read again every five seconds.",
    alone: "This Bay is alone",
    aloneAbout: "It does all of the work. Several Bays can share one PostgreSQL and its sandboxes.",
    howTo: "How to run replicas",
    answers: "answers this page",
    version: "Version",
    started: "Started",
    beat: "Last heard of",
    shards: "Shards of sandboxes",
    jobs: "Jobs",
    none: "none",
    unheld: "Without a replica just now",
    unheldAbout:
      "Another replica takes these over in a moment. When they stay here, look at the logs of Bay.",
  },
  {
    title: "副本",
    about: "共用一个数据库的多个 Bay，以及各自负责的工作，每五秒刷新一次。",
    alone: "此 Bay 单独运行",
    aloneAbout: "它负责全部工作。多个 Bay 可以共用一个 PostgreSQL 及其沙箱。",
    howTo: "如何运行多个副本",
    answers: "应答此页",
    version: "版本",
    started: "启动于",
    beat: "最近心跳",
    shards: "沙箱分片",
    jobs: "任务",
    none: "无",
    unheld: "当前无副本负责",
    unheldAbout: "其他副本很快会接管。如果一直停留在此，请查看 Bay 的日志。",
  },
);
