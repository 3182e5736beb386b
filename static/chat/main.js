/** Joins the parts of a conversation's page. */

import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { Controls } from "./controls.js";
import { startCopy } from "./copy.js";
import { Tray } from "./files.js";
import { Frames } from "./frames.js";
import { keepFresh } from "./fresh.js";
import { startOffers } from "./offers.js";
import { Outbox } from "./outbox.js";
import { byId, device, newId, onChanged, page } from "./page.js";
import { startPanels } from "./panels.js";
import { startQuestions } from "./question.js";
import { Scroll } from "./scroll.js";
import { showConnection, showTransport, startStatus } from "./status.js";
import { startThoughts } from "./thoughts.js";
import { startTimes } from "./times.js";
import { startWhispers, whisper } from "./whispers.js";

const READ_EVERY = 4_000; // ms
const BUDGET_EVERY = 60_000; // also after each answer

const me = device();
const scroll = new Scroll();

const connection = new Connection({
  query: () => {
    const whole = { device: me.id, name: me.name, epoch: frames.epoch };
    return frames.cursor === null ? whole : { ...whole, after: frames.cursor };
  },
  onFrame: (frame, bytes) => {
    frames.receive(frame, bytes);
    if (frame.type === "ack" || frame.type === "nack") outbox.answered(frame);
    else if (frame.type === "hello") greeted(frame);
    else whisper(frame);
  },
  onState: (state, why) => { showConnection(state, why, connection.attempts); outbox.connection(state === "live"); },
  onTransport: showTransport,
});

const frames = new Frames({
  cursor: Number(document.body.dataset.serial),
  epoch: document.body.dataset.epoch,
  send: (signal) => connection.send(signal),
  restart: () => connection.again(),
  onText: () => { scroll.noticed(); noteRead(); },
});

const outbox = new Outbox({
  transmit: (signal) => connection.send(signal),
  cursor: () => frames.cursor ?? -1,
  onRefused: (text, nack, order, files) => composer.giveBack(text, nack, order, files),
});

const tray = new Tray({
  address: (id) => `/api/conversations/${page.conversation}/files?${new URLSearchParams({ device: me.id, name: me.name, id })}`,
  remove: (file) => outbox.ask("file.remove", { file }),
});

const composer = new Composer({
  tray,
  send: say,
  typing: () => connection.send({ type: "typing" }),
});

const ask = (type, fields, patience) => outbox.ask(type, fields, patience);
const complain = (message) => composer.complain(message);

function say(text, whenBusy = "queue", files = []) {
  outbox.message(text, whenBusy, files);
  scroll.follow();
}

function greeted(hello) {
  document.body.dataset.role = hello.role;
  outbox.signalBytes = hello.limits?.signal_bytes ?? outbox.signalBytes;
  tray.limits = hello.limits ?? tray.limits;
  outbox.flush();
}

let readTo = -1;
let seen = -1; // what this person had before their eyes
let reading = 0;

/** Tell, now and then, how far this person has read: another device need not call it new. */
function noteRead() {
  if (document.visibilityState === "visible") seen = frames.cursor ?? seen;
  else tellRead();
  if (!reading) reading = setTimeout(tellRead, READ_EVERY);
}

function tellRead() {
  clearTimeout(reading);
  reading = 0;
  if (seen > readTo && connection.send({ type: "read", id: newId(), serial: seen })) readTo = seen;
}

/** What a person looks at when they ask why. Only drawn while it is open. */
function showDetails() {
  if (!byId("details").open) return;
  byId("detail-cursor").textContent = frames.cursor ?? "being asked for";
  byId("detail-epoch").textContent = frames.epoch;
  byId("detail-device").textContent = `${me.name} · ${me.id}`;
}

startStatus(() => composer.settle());
scroll.start();
startWhispers();
startCopy();
startThoughts();
startTimes();
startOffers(ask);
startQuestions({ ask, complain });
new Controls({ ask, complain, cursor: () => frames.cursor, device: me.id, say });
startPanels({
  rename: async (title) => {
    const answer = await ask("conversation.rename", { title });
    if (answer.type === "nack") complain(answer.message);
  },
});
onChanged(keepFresh("beside"));
onChanged(keepFresh("budget", BUDGET_EVERY));
document.addEventListener("visibilitychange", noteRead);
addEventListener("pagehide", tellRead);
byId("reconnect").addEventListener("click", () => connection.check());
byId("details").addEventListener("toggle", showDetails);
setInterval(showDetails, 500);
outbox.restore();
connection.start();
if (matchMedia("(pointer: fine)").matches && document.querySelector(".turn") === null) composer.focus();
noteRead();
