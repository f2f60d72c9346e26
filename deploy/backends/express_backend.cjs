// Signs Tokenwire tokens in Express: GET /token, for signed-in users and for anonymous visitors.
const { randomBytes } = require("node:crypto");
const express = require("express");
const jwt = require("jsonwebtoken");

const key = process.env.TOKENWIRE_JWT_KEY; // the gateway's secret, at least 32 bytes
const users = new Map([["session-of-ann", "ann"]]); // replace with your own session check
const app = express();

app.get("/token", (request, response) => {
  const cookies = Object.fromEntries((request.headers.cookie ?? "").split("; ").map((pair) => pair.split("=")));
  const user = users.get(cookies.session);
  // Hex: no user id is the prefix of another one's names.
  let subject = user && `user.${Buffer.from(user).toString("hex")}`;
  if (!user) {
    const visitor = /^[0-9a-f]{32}$/.test(cookies.visitor) ? cookies.visitor : randomBytes(16).toString("hex");
    response.cookie("visitor", visitor, { maxAge: 30 * 86_400_000, httpOnly: true, secure: true, sameSite: "lax" });
    subject = `visitor.${visitor}`;
  }
  // It opens the conversations whose names start with the subject and a dot.
  const token = jwt.sign({ sub: subject, conversations: [`${subject}.*`] }, key, { algorithm: "HS256", expiresIn: 900 });
  response.set("cache-control", "no-store").type("text").send(token);
});

app.listen(process.env.PORT ?? 3000, "127.0.0.1");
