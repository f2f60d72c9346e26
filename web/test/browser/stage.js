// Trials outside of this repository import what browser tests share under this name.

export * from "./fixture.js";
