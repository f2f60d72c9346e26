// Tests of transcript.ts: the recorded exchanges in tests/conversations/, and single frames.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { Transcript } from "#src/client/transcript.js";

const FOLDER = new URL("../../../tests/conversations/", import.meta.url);
const RECORDED = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .map((name) => ({ name, ...JSON.parse(readFileSync(new URL(name, FOLDER), "utf8")) }));

/** Return the shown messages in the format of the recorded exchanges, without empty and default fields. */
function shown(transcript) {
  return transcript.messages().map((entry) => {
    const { role, text, reason, reasoning, state } = entry;
    const message = { role, text };
    if (reason !== undefined) message.reason = reason;
    if (reasoning) message.reasoning = reasoning;
    if (role === "assistant" && state !== "ended") message.state = state;
    return message;
  });
}

/** Return a transcript with all server frames of an exchange applied. */
function folded(frames) {
  const transcript = new Transcript(conversationOf(frames));
  for (const { server } of frames) if (server) transcript.fold(server);
  return transcript;
}

function conversationOf(frames) {
  return frames.find(({ client }) => client?.type === "watch").client.conversation;
}

/** Return a seeded generator of numbers in [0, 1) (mulberry32). */
function seededRandom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Return the exchange with each delta split into single code points. */
function split(frames) {
  return frames.flatMap(({ server, ...rest }) => {
    if (server?.type !== "delta") return [{ ...rest, ...(server && { server }) }];
    const pieces = [
      ...Array.from(server.reasoning ?? "", (reasoning) => ({ text: "", reasoning })),
      ...Array.from(server.text, (text) => ({ text })),
    ];
    const { reasoning: _, ...head } = server;
    // Every log entry has its own id. The last piece has the cursor of the whole delta.
    const last = pieces.length - 1;
    const cursor = (index) => (index === last ? head.cursor : `${head.cursor}/${index}`);
    return pieces.map((piece, index) => ({ server: { ...head, ...piece, cursor: cursor(index) } }));
  });
}

/** Return the exchange with adjacent deltas coalesced at random. */
function merged(frames, random) {
  const result = [];
  for (const frame of frames) {
    const last = result.at(-1)?.server;
    const { server } = frame;
    if (server?.type === "delta" && last?.type === "delta" && last.response === server.response && random() < 0.8) {
      const reasoning = (last.reasoning ?? "") + (server.reasoning ?? "");
      result[result.length - 1] = { server: { ...server, text: last.text + server.text, reasoning } };
    } else {
      result.push(frame);
    }
  }
  return result;
}

/**
 * Return a model of a gateway that holds the logs of a recorded exchange as frames. `resume` returns the frames after
 * the cursors of a watch, as PROTOCOL.md defines them.
 */
function logsOf(frames) {
  const sent = frames.flatMap(({ server }) => (server && server.type !== "watching" ? [server] : []));
  const begin = sent.findLastIndex((frame) => frame.type === "snapshot");
  const [snapshot, ...rest] = sent.slice(begin);
  const messages = rest.filter(({ type }) => type === "message");
  return {
    /** All frames for a viewer without a disconnect. */
    whole: [snapshot, ...rest],
    resume(/** @type {any} */ { after, responses = {} }) {
      if (after === undefined) return [snapshot, ...rest];
      const message = messages.find(({ cursor }) => cursor === after);
      const afterMessage = message === undefined ? 0 : rest.indexOf(message) + 1;
      // Positions in each log. The viewer has all, or nothing, of a response without a cursor.
      const positions = new Map(
        Object.entries(responses).map(([response, cursor]) => {
          return [response, rest.findLastIndex((frame) => frame.response === response && frame.cursor === cursor) + 1];
        }),
      );
      const missed = rest.filter((frame, index) => {
        if (frame.type === "message") return index >= afterMessage;
        return frame.cursor !== undefined && index >= (positions.get(frame.response) ?? afterMessage);
      });
      return [{ type: "watching", conversation: snapshot.conversation, cursor: after, resumed: true }, ...missed];
    },
  };
}

describe("recorded exchanges", () => {
  test("exist", () => assert.ok(RECORDED.length >= 6));

  for (const { name, title, frames, shows } of RECORDED) {
    describe(`${name}: ${title}`, () => {
      test("shows the expected messages at the end", () => {
        const transcript = folded(frames);
        assert.deepEqual(shown(transcript), shows.messages);
        assert.equal(transcript.damaged, false);
      });

      test("produces the recorded watches", () => {
        const transcript = new Transcript(conversationOf(frames));
        for (const { client, server } of frames) {
          if (client?.type === "watch") assert.deepEqual(transcript.watch(), client);
          if (server) transcript.fold(server);
        }
      });

      test("does not depend on how text is split into deltas", () => {
        const random = seededRandom(name.length);
        const cuts = [split(frames)];
        for (let round = 0; round < 20; round += 1) cuts.push(merged(frames, random), merged(split(frames), random));
        for (const cut of cuts) {
          const transcript = folded(cut);
          assert.deepEqual(shown(transcript), shows.messages);
          assert.equal(transcript.damaged, false);
        }
      });

      test("resumes after random disconnects", () => {
        const random = seededRandom(title.length);
        const whole = logsOf(frames);
        const pieces = logsOf(split(frames));
        for (let round = 0; round < 100; round += 1) {
          const logs = round % 10 ? whole : pieces;
          const transcript = new Transcript(conversationOf(frames));
          let queue = logs.whole;
          for (let cut = 0; cut < 4; cut += 1) {
            for (const frame of queue.slice(0, Math.floor(random() * queue.length))) transcript.fold(frame);
            queue = logs.resume(transcript.watch());
          }
          for (const frame of queue) transcript.fold(frame);
          assert.deepEqual(shown(transcript), shows.messages);
          assert.equal(transcript.damaged, false);
        }
      });

      test("ignores duplicate frames and survives reloads", () => {
        const random = seededRandom(title.length + 1);
        for (let round = 0; round < 20; round += 1) {
          let transcript = new Transcript(conversationOf(frames));
          for (const { server } of frames) {
            if (!server) continue;
            transcript.fold(server);
            if (random() < 0.3 && server.type !== "start") transcript.fold(server);
            if (random() < 0.05) {
              transcript = new Transcript(transcript.conversation, JSON.parse(JSON.stringify(transcript.save())));
            }
          }
          assert.deepEqual(shown(transcript), shows.messages);
          assert.equal(transcript.damaged, false);
        }
      });

      test("ignores unknown frame types and fields", () => {
        const later = frames.flatMap(({ server, ...rest }) => [
          { server: { type: "mood", response: "r1", text: "?", cursor: "9" } },
          { ...rest, ...(server && { server: { ...server, mood: { good: true } } }) },
        ]);
        assert.deepEqual(shown(folded(later)), shows.messages);
      });

      test("ignores frames of another conversation", () => {
        const transcript = new Transcript("other");
        for (const { server } of frames) if (server) transcript.fold(server);
        assert.deepEqual(transcript.messages(), []);
        assert.deepEqual(transcript.watch(), { type: "watch", conversation: "other" });
      });
    });
  }
});

/** Return a transcript of conversation `c` with an empty snapshot and these frames applied. @returns {any} */
function transcriptOf(...frames) {
  const transcript = new Transcript("c");
  transcript.fold({ type: "snapshot", conversation: "c", cursor: "0-0", messages: [], responses: [] });
  for (const frame of frames) transcript.fold(frame);
  return transcript;
}

const question = (id, cursor, text = id, more = {}) =>
  /** @type {any} */ ({
    type: "message",
    conversation: "c",
    cursor,
    message: { id, role: "user", text, ...more },
  });
const queued = (response, replies_to, more = {}) =>
  /** @type {any} */ ({
    type: "status",
    conversation: "c",
    response,
    state: "queued",
    replies_to,
    ...more,
  });
const start = (response, replies_to, more = {}) =>
  /** @type {any} */ ({
    type: "start",
    conversation: "c",
    response,
    cursor: "1-2",
    model: "default",
    attempt: 1,
    replies_to,
    ...more,
  });
const delta = (response, text, cursor = "1-3") => /** @type {any} */ ({ type: "delta", response, cursor, text });
const end = (response, chars, more = {}) =>
  /** @type {any} */ ({
    type: "end",
    conversation: "c",
    response,
    cursor: "1-9",
    reason: "complete",
    chars,
    ...more,
  });
const settled = (response, text, cursor, more = {}) =>
  /** @type {any} */ ({
    type: "message",
    conversation: "c",
    cursor,
    message: { id: `m-${response}`, role: "assistant", response, text, reason: "complete", ...more },
  });
const ids = (transcript) => transcript.messages().map((entry) => entry.id);

describe("cursors", () => {
  test("a new transcript has none", () => {
    assert.deepEqual(new Transcript("c").watch(), { type: "watch", conversation: "c" });
    assert.equal(new Transcript("c").known, false);
  });

  test("messages advance the history's, and frames of a response its own", () => {
    const transcript = transcriptOf(question("q", "1-7"), queued("r", "q"), start("r", "q"));
    assert.deepEqual(transcript.watch(), { type: "watch", conversation: "c", after: "1-7", responses: { r: "1-2" } });
    transcript.fold(delta("r", "a", "1-4"));
    assert.deepEqual(transcript.watch().responses, { r: "1-4" });
    transcript.fold({ type: "reset", response: "r", cursor: "2-5", text: "", reason: "attempt" });
    assert.deepEqual(transcript.watch().responses, { r: "2-5" });
    transcript.fold({ type: "watching", conversation: "c", cursor: "1-7", resumed: true });
    assert.equal(transcript.watch().after, "1-7");
  });

  test("an ended response has none", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "a"), end("r", 1));
    assert.deepEqual(transcript.watch().responses, {});
  });

  test("watching without resume keeps the cursor until the snapshot", () => {
    const transcript = transcriptOf(question("q", "1-7"));
    transcript.fold({ type: "watching", conversation: "c", cursor: "5-1", resumed: false, reason: "lost" });
    assert.equal(transcript.watch().after, "1-7");
  });

  test("a status without a cursor does not advance", () => {
    const transcript = transcriptOf(question("q", "1-7"), queued("r", "q"));
    assert.deepEqual(transcript.watch().responses, {});
    transcript.fold(queued("r", "q", { cursor: "5-1" }));
    assert.deepEqual(transcript.watch().responses, { r: "5-1" });
    transcript.fold(queued("r", "q"));
    assert.deepEqual(transcript.watch().responses, { r: "5-1" });
  });
});

describe("states", () => {
  const answer = (...frames) => transcriptOf(question("q", "1-7"), ...frames).message("r");

  test("a response appears as queued before its start", () => {
    const entry = answer(queued("r", "q"));
    assert.equal(entry.state, "queued");
    assert.equal(entry.text, "");
  });

  test("waiting ends with the next delta", () => {
    const waiting = { type: "status", response: "r", state: "waiting", retry_in: 1.5 };
    assert.equal(answer(start("r", "q"), waiting).state, "waiting");
    assert.equal(answer(start("r", "q"), waiting).retryIn, 1.5);
    const after = answer(start("r", "q"), waiting, delta("r", "a"));
    assert.deepEqual([after.state, after.retryIn], ["running", undefined]);
  });

  test("a new attempt is recovering until its first text", () => {
    const recovering = [
      start("r", "q"),
      delta("r", "old"),
      { type: "status", response: "r", state: "recovering" },
      { type: "reset", response: "r", cursor: "2-4", text: "", reason: "attempt" },
      start("r", "q", { attempt: 2, cursor: "2-4" }),
    ];
    assert.equal(answer(...recovering).state, "recovering");
    assert.equal(answer(...recovering).text, "");
    assert.equal(answer(...recovering, delta("r", "new")).state, "running");
    assert.equal(answer(...recovering, delta("r", "new")).text, "new");
  });

  test("a repeated start of the same attempt clears its text", () => {
    assert.equal(answer(start("r", "q"), delta("r", "once"), start("r", "q"), delta("r", "once")).text, "once");
  });

  test("the start of a new attempt keeps the text of the reset", () => {
    const kept = { type: "reset", response: "r", cursor: "2-4", text: "kept", reason: "attempt" };
    assert.equal(answer(start("r", "q"), kept, start("r", "q", { attempt: 2 })).text, "kept");
  });

  test("a status does not end a response", () => {
    assert.equal(answer(start("r", "q"), { type: "status", response: "r", state: "ended" }).state, "running");
  });

  test("an end sets reason, error and retryable", () => {
    const error = { code: "demo_failed", message: "Told to." };
    const entry = answer(start("r", "q"), delta("r", "a"), end("r", 1, { reason: "failed", retryable: true, error }));
    assert.deepEqual([entry.reason, entry.retryable, entry.error], ["failed", true, error]);
    assert.equal(answer(start("r", "q"), end("r", 0)).retryable, false);
  });

  test("frames after the end are ignored", () => {
    const frames = [start("r", "q"), delta("r", "a"), end("r", 1)];
    for (const late of [start("r", "q"), delta("r", "b"), queued("r", "q"), end("r", 5)]) {
      const transcript = transcriptOf(question("q", "1-7"), ...frames);
      const before = transcript.message("r");
      transcript.fold(late);
      assert.equal(transcript.message("r"), before);
      assert.equal(transcript.damaged, false);
    }
  });

  test("a reset after the end reopens the response", () => {
    const back = { type: "reset", response: "r", cursor: "1-3", text: "a", reason: "lost" };
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ab"), end("r", 2), back);
    const { state, text, reason } = transcript.message("r");
    assert.deepEqual([state, text, reason], ["running", "a", undefined]);
    assert.deepEqual(transcript.watch().responses, { r: "1-3" });
  });

  test("a reset without text keeps the state", () => {
    const empty = { type: "reset", response: "r", cursor: "5-1", text: "", reason: "lost" };
    assert.equal(answer(queued("r", "q"), empty).state, "queued");
    assert.equal(answer(queued("r", "q"), { ...empty, text: "a" }).state, "running");
  });

  test("a settled message marks the streamed response", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "a"), end("r", 1));
    assert.equal(transcript.message("r").settled, undefined);
    transcript.fold(settled("r", "a", "3-3"));
    assert.deepEqual(ids(transcript), ["q", "r"]);
    assert.equal(transcript.message("r").settled, true);
    assert.equal(transcript.watch().after, "3-3");
  });

  test("a settled message ends an open response", () => {
    const transcript = transcriptOf(question("q", "1-7"), queued("r", "q"), settled("r", "all of it", "3-3"));
    assert.deepEqual(shown(transcript)[1], { role: "assistant", text: "all of it", reason: "complete" });
    assert.deepEqual(transcript.open(), []);
  });

  test("only changed messages become new objects", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"));
    const [first, before] = transcript.messages();
    transcript.fold(delta("r", "a"));
    assert.equal(transcript.messages()[0], first);
    assert.notEqual(transcript.messages()[1], before);
    assert.equal(before.text, "");
  });
});

describe("damage", () => {
  test("the length of an end counts code points", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "a🧵記"), end("r", 3));
    assert.equal(transcript.damaged, false);
  });

  test("a different length requests a snapshot", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ac"), end("r", 3));
    assert.equal(transcript.damaged, true);
    assert.deepEqual(transcript.watch(), { type: "watch", conversation: "c" });
    const messages = [question("q").message, settled("r", "abc").message];
    transcript.fold({ type: "snapshot", conversation: "c", cursor: "3-3", messages, responses: [] });
    assert.equal(transcript.damaged, false);
    assert.equal(transcript.message("r").text, "abc");
  });

  test("an end without a length is not compared", () => {
    assert.equal(transcriptOf(start("r", "q"), delta("r", "a"), end("r")).damaged, false);
  });

  test("a reset of an unknown response is damage after a snapshot", () => {
    const reset = { type: "reset", response: "x", cursor: "1-3", text: "a", reason: "lost" };
    assert.equal(transcriptOf(reset).damaged, true);
    const transcript = new Transcript("c");
    transcript.fold(/** @type {any} */ (reset));
    assert.equal(transcript.damaged, false);
  });

  test("other frames of an unknown response are ignored", () => {
    const transcript = transcriptOf(
      question("q", "1-7"),
      delta("x", "a"),
      { type: "status", response: "x", state: "waiting" },
      end("x", 1),
    );
    assert.deepEqual(ids(transcript), ["q"]);
    assert.equal(transcript.damaged, false);
  });
});

describe("order", () => {
  test("an answer follows its question, not later questions", () => {
    const transcript = transcriptOf(
      question("q1", "1-1"),
      queued("r1", "q1"),
      question("q2", "2-1"),
      question("q3", "3-1"),
    );
    transcript.fold(queued("r3", "q3"));
    transcript.fold(queued("r2", "q2"));
    assert.deepEqual(ids(transcript), ["q1", "r1", "q2", "r2", "q3", "r3"]);
  });

  test("a second answer follows the first", () => {
    const transcript = transcriptOf(question("q1", "1-1"), start("r1", "q1"), question("q2", "2-1"), start("r2", "q1"));
    assert.deepEqual(ids(transcript), ["q1", "r1", "r2", "q2"]);
  });

  test("an answer without its question is last", () => {
    assert.deepEqual(ids(transcriptOf(question("q", "1-1"), start("r", "trimmed"))), ["q", "r"]);
  });

  test("a retry replaces its answer in place", () => {
    const transcript = transcriptOf(
      question("q1", "1-1"),
      start("r1", "q1"),
      end("r1", 0, { reason: "failed" }),
      question("q2", "2-1"),
      start("r2", "q2"),
    );
    transcript.fold(queued("r3", "q1", { replaces: "r1" }));
    // A status may omit fields that the start has.
    transcript.fold(start("r3", "q1", { replaces: "r1" }));
    assert.deepEqual(ids(transcript), ["q1", "r3", "q2", "r2"]);
  });

  test("a start with replaces moves the answer", () => {
    const transcript = transcriptOf(question("q", "1-1"), start("r1", "q"), end("r1", 0), queued("r2", "q"));
    assert.deepEqual(ids(transcript), ["q", "r1", "r2"]);
    transcript.fold(start("r2", "q", { replaces: "r1" }));
    assert.deepEqual(ids(transcript), ["q", "r2"]);
  });

  test("the later of two retries is shown, and both have cursors", () => {
    const transcript = transcriptOf(
      question("q", "1-1"),
      start("r1", "q"),
      end("r1", 0),
      start("r2", "q", { replaces: "r1" }),
      start("r3", "q", { replaces: "r1" }),
      delta("r2", "a", "1-4"),
    );
    assert.deepEqual(ids(transcript), ["q", "r3"]);
    assert.deepEqual(transcript.watch().responses, { r2: "1-4", r3: "1-2" });
  });

  test("a reworded question replaces the question and its answer", () => {
    const transcript = transcriptOf(question("q1", "1-1"), start("r1", "q1"), end("r1", 0), question("q2", "2-1"));
    transcript.fold(question("q3", "3-1", "better", { replaces: "r1" }));
    transcript.fold(start("r3", "q3", { replaces: "r1" }));
    assert.deepEqual(ids(transcript), ["q3", "r3", "q2"]);
  });

  test("a duplicate question is shown once", () => {
    assert.deepEqual(ids(transcriptOf(question("q", "1-1"), question("q", "1-1"))), ["q"]);
  });

  test("a snapshot discards earlier replacements", () => {
    const transcript = transcriptOf(
      question("q", "1-1"),
      start("r1", "q"),
      end("r1", 0),
      start("r2", "q", { replaces: "r1" }),
      end("r2", 0),
    );
    const messages = [question("q").message, settled("r1", "", "", { replies_to: "q" }).message];
    transcript.fold({ type: "snapshot", conversation: "c", cursor: "9-9", messages, responses: [] });
    transcript.fold(start("r3", "q", { replaces: "r1" }));
    assert.deepEqual(ids(transcript), ["q", "r3"]);
  });

  test("a snapshot uses the same order", () => {
    const transcript = transcriptOf(question("old", "1-1"));
    transcript.fold({
      type: "snapshot",
      conversation: "c",
      cursor: "8-1",
      more: true,
      messages: [
        question("q1").message,
        settled("r1", "a", "", { replies_to: "q1", reason: "stopped", retryable: true }).message,
        question("q2").message,
      ],
      responses: [
        {
          response: "r3",
          cursor: "1-5",
          state: "running",
          model: "default",
          attempt: 1,
          text: "b",
          reasoning: "hm",
          replies_to: "q1",
          replaces: "r1",
        },
        { response: "r2", cursor: "5-1", state: "queued", model: "default", attempt: 0, text: "", replies_to: "q2" },
      ],
    });
    assert.deepEqual(shown(transcript), [
      { role: "user", text: "q1" },
      { role: "assistant", text: "b", reasoning: "hm", state: "running" },
      { role: "user", text: "q2" },
      { role: "assistant", text: "", state: "queued" },
    ]);
    assert.equal(transcript.more, true);
    assert.deepEqual(transcript.watch(), {
      type: "watch",
      conversation: "c",
      after: "8-1",
      responses: { r3: "1-5", r2: "5-1" },
    });
  });
});

describe("revision", () => {
  const revision = (transcript) => transcript.message("r").revision;

  test("does not change while the text grows", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "a"), delta("r", "b", "1-4"));
    assert.equal(revision(transcript), 0);
    transcript.fold({ type: "reset", response: "r", cursor: "2-5", text: "abc", reason: "attempt" });
    assert.equal(revision(transcript), 0);
    transcript.fold(end("r", 3));
    transcript.fold(settled("r", "abc", "3-3"));
    assert.equal(revision(transcript), 0);
  });

  test("increments for another or a shorter text", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ab"));
    transcript.fold({ type: "reset", response: "r", cursor: "2-5", text: "a", reason: "attempt" });
    assert.equal(revision(transcript), 1);
    transcript.fold({ type: "reset", response: "r", cursor: "2-5", text: "b", reason: "attempt" });
    assert.equal(revision(transcript), 2);
  });

  test("does not change with a snapshot of the same text", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ab"));
    transcript.mark("q", { key: "k1" });
    transcript.mark("r", { stopping: true });
    const open = {
      response: "r",
      cursor: "1-4",
      state: "running",
      model: "default",
      attempt: 1,
      text: "abc",
      replies_to: "q",
    };
    const snapshot = {
      type: "snapshot",
      conversation: "c",
      cursor: "1-7",
      messages: [question("q").message],
      responses: [open],
    };
    transcript.fold(snapshot);
    const [first, answer] = transcript.messages();
    assert.deepEqual([first.key, answer.stopping, answer.text, answer.revision], ["k1", true, "abc", 0]);
    transcript.fold({ ...snapshot, responses: [{ ...open, text: "x" }] });
    assert.equal(revision(transcript), 1);
  });
});

describe("after a reload", () => {
  test("messages and cursors are saved", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ab"));
    const again = new Transcript("c", JSON.parse(JSON.stringify(transcript.save())));
    assert.deepEqual(again.messages(), JSON.parse(JSON.stringify(transcript.messages())));
    assert.deepEqual(again.watch(), transcript.watch());
    assert.equal(again.known, true);
  });

  test("a damaged transcript is shown and requests a snapshot", () => {
    const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ac"), end("r", 3));
    const again = new Transcript("c", JSON.parse(JSON.stringify(transcript.save())));
    assert.deepEqual(again.watch(), { type: "watch", conversation: "c" });
    assert.equal(again.messages().length, 2);
  });

  test("more open responses than a watch may name request a snapshot", () => {
    const frames = Array.from({ length: 65 }, (_, index) => start(`r${index}`, "q"));
    assert.equal(Object.keys(transcriptOf(question("q", "1-7"), ...frames.slice(1)).watch().responses).length, 64);
    assert.deepEqual(transcriptOf(question("q", "1-7"), ...frames).watch(), { type: "watch", conversation: "c" });
  });
});

describe("older messages", () => {
  const page = (before, messages, more = {}) =>
    /** @type {any} */ ({ type: "messages", conversation: "c", before, messages, ...more });
  const recent = (messages, more = {}) =>
    /** @type {any} */ ({
      type: "snapshot",
      conversation: "c",
      cursor: "9-1",
      messages: messages.map(({ message }) => message),
      responses: [],
      ...more,
    });
  const ids = (transcript) => transcript.messages().map(({ id }) => id);

  test("stand before the others, page by page", () => {
    const transcript = transcriptOf(recent([question("q3", "9-1")], { more: true, earlier: "9-1" }));
    assert.deepEqual(transcript.older(), { type: "older", conversation: "c", before: "9-1" });
    const second = [question("q2", "3-1").message, settled("r2", "two", "4-1", { replies_to: "q2" }).message];
    transcript.fold(page("9-1", second, { more: true, earlier: "3-1" }));
    // A page that was requested twice.
    transcript.fold(page("9-1", second, { more: true, earlier: "3-1" }));
    assert.deepEqual([ids(transcript), transcript.more], [["q2", "r2", "q3"], true]);
    transcript.fold(page("3-1", [question("q1", "1-1").message]));
    assert.deepEqual([ids(transcript), transcript.more], [["q1", "q2", "r2", "q3"], false]);
    assert.equal(transcript.older(), undefined);
    assert.equal(transcript.watch().after, "9-1");
  });

  test("are saved, and requested after a reload", () => {
    const transcript = transcriptOf(recent([question("q3", "9-1")], { more: true, earlier: "9-1" }));
    const again = new Transcript("c", JSON.parse(JSON.stringify(transcript.save())));
    again.fold(page("9-1", [question("q2", "3-1").message]));
    assert.deepEqual(ids(again), ["q2", "q3"]);
  });

  test("do not show what a newer message replaces", () => {
    const again = settled("r2", "better", "8-1", { replies_to: "q1", replaces: "r1" });
    const transcript = transcriptOf(recent([again], { more: true, earlier: "8-1" }));
    transcript.fold(
      page("8-1", [question("q1", "1-1").message, settled("r1", "bad", "2-1", { replies_to: "q1" }).message]),
    );
    assert.deepEqual(ids(transcript), ["q1", "r2"]);
    const reworded = question("q2", "8-1", "Why?", { replaces: "r1" });
    const other = transcriptOf(recent([reworded], { more: true, earlier: "8-1" }));
    other.fold(page("8-1", [question("q1", "1-1").message, settled("r1", "x", "2-1", { replies_to: "q1" }).message]));
    assert.deepEqual(ids(other), ["q2"]);
  });
});

test("a start after a reset at the same cursor keeps the text", () => {
  const transcript = transcriptOf(question("q", "1-7"), start("r", "q"), delta("r", "ab"));
  transcript.fold({ type: "reset", response: "r", cursor: "1-9", text: "abc", reason: "lost" });
  transcript.fold({ ...start("r", "q"), cursor: "1-9" });
  assert.equal(transcript.answer("r").text, "abc");
});
