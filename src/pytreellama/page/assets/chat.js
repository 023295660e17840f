// The live page: a chat with the server that sent it, each answer beside the trees it came from.

import { MarkedText, StepView, html } from "./tree.js";

const MODELS = "v1/models";
const COMPLETIONS = "v1/chat/completions";
const UNAUTHORIZED = 401;
const NEAR_END_PX = 60;

const $ = (id) => document.getElementById(id);

// -- the server

/** A complaint of the server, or of the way to it. */
class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

class Server {
  constructor() {
    this.key = "";
  }

  async fetch(address, options = {}) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      response = await fetch(address, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server cannot be reached. Is it still running?");
    }
    if (!response.ok) throw new ServerError(await complaintOf(response), response.status);
    return response;
  }

  async model() {
    const { data } = await (await this.fetch(MODELS)).json();
    if (!data?.length) throw new ServerError("The server has no model.");
    return data[0].id;
  }

  /** The chunks of an answer as they come. */
  async *answer(request, signal) {
    const response = await this.fetch(COMPLETIONS, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
      signal,
    });
    let isWhole = false;
    for await (const data of events(response.body)) {
      isWhole = data === "[DONE]";
      if (isWhole) continue; // to the end, or the server would think that nobody waited for it
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message ?? String(chunk.error));
      yield chunk;
    }
    if (!isWhole) throw new ServerError("The answer broke off, and the server did not say why.");
  }
}

async function complaintOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim();
  }
}

/** The data of server-sent events; each of ours is one line. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r?\n/);
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice("data:".length).trim();
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have been aborted, which is what is wanted
  }
}

// -- an answer

/** What the model writes to one message: its text, its steps, and how it ended. */
class Answer {
  constructor(name, onPick) {
    this.text = "";
    this.steps = [];
    this.usage = null;
    this.finishReason = null;
    this.startedAt = performance.now();
    this.marked = new MarkedText((index) => onPick(this, index));
    this.about = html("p", { class: "about" });
    const heading = html("h2", {}, name);
    this.element = html("div", { class: "turn writing" }, heading, this.marked.element, this.about);
  }

  add(chunk) {
    const choice = chunk.choices?.[0];
    this.text += choice?.delta?.content ?? "";
    this.finishReason = choice?.finish_reason ?? this.finishReason;
    this.usage = chunk.usage ?? this.usage;
    this.steps.push(...(chunk.pytreellama?.steps ?? []));
  }

  show(isFinished = false) {
    this.marked.update(this.text, this.steps, isFinished);
  }

  finish(how) {
    this.show(true);
    this.element.classList.remove("writing");
    const seconds = (performance.now() - this.startedAt) / 1e3;
    const parts = [how, `${seconds.toFixed(1)} s`];
    const n = this.usage?.completion_tokens;
    if (n !== undefined) parts.splice(1, 0, `${n} tokens`);
    if (this.steps.length) parts.push(`${this.steps.length} passes`);
    this.about.textContent = parts.join(" · ");
  }
}

const ENDINGS = {
  stop: "finished",
  length: "cut at the most tokens",
  content_filter: "filtered",
};

// -- the page

class Chat {
  constructor() {
    this.server = new Server();
    this.model = null;
    this.messages = [];
    this.answer = null;
    this.shownAnswer = null;
    this.abort = null;
    this.frame = null;
    this.view = new StepView($("steps"), {
      empty: "The tree of every pass appears here: draft nodes, and the path that was accepted.",
      onShow: (index) => this.shownAnswer?.marked.light(index),
    });
    this.listen();
    this.greet();
  }

  listen() {
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send($("message").value);
    });
    $("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("ask").requestSubmit();
    });
    $("stop").addEventListener("click", () => this.abort?.abort());
    $("new-chat").addEventListener("click", () => this.begin());
    $("key").addEventListener("change", () => this.greet());
    for (const example of document.querySelectorAll(".example")) {
      example.addEventListener("click", () => this.send(example.textContent));
    }
    // a field that does not fit is no use where nobody sees it
    $("ask").addEventListener("invalid", () => ($("ask").querySelector("details").open = true), true);
  }

  /** Learn the model's name. */
  async greet() {
    this.server.key = $("key").value.trim();
    try {
      this.model = await this.server.model();
      $("model").textContent = this.model;
      document.title = `${this.model} · pytreellama`;
      this.complain(null);
    } catch (error) {
      this.complain(error);
    }
  }

  /** Forget the talk. */
  begin() {
    this.abort?.abort();
    this.messages = [];
    this.answer = this.shownAnswer = null;
    $("log").replaceChildren($("welcome"));
    $("welcome").hidden = false;
    this.view.showSteps([]);
    this.complain(null);
    $("status").textContent = "New chat";
    $("message").focus();
  }

  async send(text) {
    if (this.abort || !text.trim()) return;
    if (!$("ask").reportValidity()) return;
    const abort = (this.abort = new AbortController());
    this.setBusy(true);
    this.complain(null);
    const question = this.ask(text);
    const answer = this.expect();
    try {
      if (this.model === null) await this.greet();
      for await (const chunk of this.server.answer(this.request(), abort.signal)) {
        answer.add(chunk);
        this.schedule(answer);
      }
      this.close(answer, ENDINGS[answer.finishReason] ?? answer.finishReason ?? "finished");
    } catch (error) {
      this.fail(error, question, answer);
    } finally {
      this.abort = null;
      this.setBusy(false);
    }
  }

  request() {
    const system = $("system").value.trim();
    return {
      model: this.model ?? "",
      messages: system ? [{ role: "system", content: system }, ...this.messages] : this.messages,
      stream: true,
      max_tokens: $("max-tokens").valueAsNumber,
      temperature: $("temperature").valueAsNumber,
      stream_options: { include_usage: true, include_steps: true },
      reasoning_format: "none", // it is shown as the model writes it
    };
  }

  ask(text) {
    $("welcome").hidden = true;
    $("message").value = "";
    this.messages.push({ role: "user", content: text });
    const said = html("div", { class: "said" }, text);
    const element = html("div", { class: "turn user" }, html("h2", {}, "You"), said);
    $("log").append(element);
    return { text, element };
  }

  expect() {
    const answer = new Answer("Model", (picked, index) => this.look(picked, index));
    this.answer = answer;
    this.shownAnswer?.marked.light(null);
    this.shownAnswer = answer;
    $("log").append(answer.element);
    $("log").scrollTop = $("log").scrollHeight;
    this.view.showSteps(answer.steps);
    $("status").textContent = "The model is writing";
    return answer;
  }

  /** Show what came, once before the next frame. */
  schedule(answer) {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const log = $("log");
      const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
      // one that has ended meanwhile has shown all of itself already
      if (answer === this.answer) answer.show();
      if (isAtEnd) log.scrollTop = log.scrollHeight;
      if (answer === this.shownAnswer) this.view.grown();
    });
  }

  /** Look at a step of an answer, which may be an earlier one. */
  look(answer, index) {
    if (answer === this.shownAnswer) return this.view.go(index);
    this.shownAnswer?.marked.light(null);
    this.shownAnswer = answer;
    this.view.showSteps(answer.steps, index);
  }

  close(answer, how) {
    if (answer !== this.answer) return; // a new chat has begun
    this.answer = null;
    answer.finish(how);
    if (answer === this.shownAnswer) this.view.grown();
    this.messages.push({ role: "assistant", content: answer.text });
    // all at once: read out token by token nobody would understand it
    $("status").textContent = `The model's answer, ${how}: ${answer.text}`;
    $("log").scrollTop = $("log").scrollHeight;
  }

  fail(error, question, answer) {
    const isStopped = error.name === "AbortError";
    if (answer !== this.answer) return;
    if (!isStopped) this.complain(error);
    if (answer.text) {
      this.close(answer, isStopped ? "stopped" : "broken off");
    } else {
      this.takeBack(question, answer);
    }
  }

  /** Nothing was answered: the message is to be sent again, or changed. */
  takeBack(question, answer) {
    this.answer = this.shownAnswer = null;
    this.messages.pop();
    question.element.remove();
    answer.element.remove();
    this.view.showSteps([]);
    $("welcome").hidden = this.messages.length > 0;
    $("status").textContent = "No answer";
    if (!$("message").value) $("message").value = question.text;
  }

  complain(error) {
    const needsKey = error?.status === UNAUTHORIZED;
    // nobody has done anything wrong yet who was not asked for a key
    const isRefused = needsKey && this.server.key !== "";
    const message = isRefused ? "The server does not know this API key." : error?.message;
    $("alarm").hidden = !error || (needsKey && !isRefused);
    $("alarm").textContent = $("alarm").hidden ? "" : message;
    $("key-hint").hidden = !needsKey || isRefused;
    if (!needsKey) return;
    $("key-label").hidden = false;
    $("key").focus();
  }

  setBusy(isBusy) {
    const hadFocus = document.activeElement;
    $("send").disabled = isBusy;
    $("stop").disabled = !isBusy;
    // a button that is switched off loses the focus to nowhere
    if (hadFocus === $("send") || hadFocus === $("stop")) $("message").focus();
  }
}

new Chat();
