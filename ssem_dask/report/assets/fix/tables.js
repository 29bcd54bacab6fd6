// What the tables of the file say, and which changes of them a key means. Coordinates are source px, (y, x).

const FULL = 360;

export function covers(entry, z) {
  const fix = entry.fix;
  if (entry.table === "pair") return fix.fixed === z || fix.moving === z;
  if (fix.z !== undefined) return fix.z === z || fix.with === z;
  const [first, stop] = fix.sections.split(":").map(Number);
  return z >= first && z < stop;
}

export function firstSection(entry) {
  const fix = entry.fix;
  if (entry.table === "pair") return fix.moving;
  return fix.z ?? Number(fix.sections.split(":")[0]);
}

// Which sections a new table is about: one, or a range.
export function target(z, through) {
  const last = Math.max(z, through);
  return last > z ? { sections: `${z}:${last + 1}` } : { z };
}

function sameTarget(fix, wanted) {
  return wanted.z !== undefined ? fix.z === wanted.z : fix.sections === wanted.sections;
}

export function named(wanted) {
  if (wanted.z !== undefined) return `section ${wanted.z}`;
  const [first, stop] = wanted.sections.split(":").map(Number);
  return `sections ${first} to ${stop - 1}`;
}

function find(tables, wanted, test) {
  return tables.find((entry) => entry.table === "section" && sameTarget(entry.fix, wanted) && test(entry.fix));
}

const remove = (entry) => ({ op: "remove", table: entry.table, number: entry.number });
const add = (table, fix) => ({ op: "add", table, fix });
const replace = (entry, fix) => ({ op: "replace", table: entry.table, number: entry.number, fix });

// The result is { label, operations }.
export function toggleExclude(tables, wanted, fill) {
  const known = find(tables, wanted, (fix) => fix.action === "exclude");
  if (known && (known.fix.fill ?? "blank") === fill) {
    return { label: `Take ${named(wanted)} back in`, operations: [remove(known)] };
  }
  const fix = { ...wanted, action: "exclude", fill };
  return { label: `Leave out ${named(wanted)}`, operations: [known ? replace(known, fix) : add("section", fix)] };
}

export function toggleInvert(tables, wanted) {
  const known = find(tables, wanted, (fix) => fix.action === "invert");
  const operation = known ? remove(known) : add("section", { ...wanted, action: "invert" });
  return { label: `Invert ${named(wanted)}`, operations: [operation] };
}

// A section has changed places with another one: again takes it back.
export function toggleSwap(tables, z, other) {
  const fixes = tables.filter((entry) => entry.table === "section" && entry.fix.action === "swap");
  const known = fixes.find(({ fix }) => (fix.z === z && fix.with === other) || (fix.z === other && fix.with === z));
  if (known) return { label: `Take sections ${z} and ${other} back to their places`, operations: [remove(known)] };
  return { label: `Exchange sections ${z} and ${other}`, operations: [add("section", { z, action: "swap", with: other })] };
}

function normalised(angle) {
  const turned = ((angle % FULL) + FULL) % FULL;
  return turned > FULL / 2 ? turned - FULL : turned;
}

// Turning adds up with what the file says. A mirror of the picture as shown comes after its rotation, so it reverses it.
export function turn(tables, wanted, { by = 0, mirror = false }) {
  const known = find(tables, wanted, (fix) => fix.action === "turn");
  const before = known ? known.fix : { angle: 0, mirror: false };
  const mirrored = Boolean(before.mirror) !== mirror;
  const angle = normalised((mirror ? -1 : 1) * (before.angle ?? 0) + by);
  const label = mirror ? `Mirror ${named(wanted)}` : `Turn ${named(wanted)} by ${by}°`;
  if (angle === 0 && !mirrored) return { label, operations: known ? [remove(known)] : [] };
  const fix = { ...wanted, action: "turn" };
  if (angle !== 0) fix.angle = angle;
  if (mirrored) fix.mirror = true;
  return { label, operations: [known ? replace(known, fix) : add("section", fix)] };
}

export function setJump(tables, z, action) {
  const known = tables.find((entry) => entry.table === "jump" && entry.fix.z === z);
  const label = `${action === "keep" ? "Keep" : "Undo"} the jump before section ${z}`;
  if (known && known.fix.action === action) return { label: `Say nothing of the jump before section ${z}`, operations: [remove(known)] };
  return { label, operations: [known ? replace(known, { z, action }) : add("jump", { z, action })] };
}

export function addLine(tables, wanted, kind, line) {
  const known = find(tables, wanted, (fix) => Array.isArray(fix[kind]) && fix.action === undefined);
  const lines = known ? [...known.fix[kind], line] : [line];
  const fix = { ...(known ? known.fix : wanted), [kind]: lines };
  const label = kind === "mask" ? `Region without tissue in ${named(wanted)}` : `Fold line in ${named(wanted)}`;
  return { label, operations: [known ? replace(known, fix) : add("section", fix)] };
}

export function addPair(tables, a, b) {
  const [fixed, moving] = a.z < b.z ? [a, b] : [b, a];
  const known = tables.find((entry) => entry.table === "pair" && entry.fix.fixed === fixed.z && entry.fix.moving === moving.z);
  const point = [...fixed.point, ...moving.point];
  const points = known ? [...known.fix.points, point] : [point];
  const fix = { ...(known ? known.fix : {}), fixed: fixed.z, moving: moving.z, points };
  return { label: `Same point in ${fixed.z} and ${moving.z}`, operations: [known ? replace(known, fix) : add("pair", fix)] };
}

// A proposal that the run makes of a section; null once a fix says something of the section as a whole.
export function proposal(tables, place) {
  if (!place?.proposal) return null;
  const said = tables.some((entry) => entry.table === "section" && entry.fix.action !== undefined && covers(entry, place.z));
  return said ? null : { label: `Section ${place.z} ${place.proposal.reason}`.slice(0, 200), operations: [add("section", place.proposal.fix)] };
}

export function removal(entry) {
  return { label: `Remove: ${describe(entry)}`.slice(0, 200), operations: [remove(entry)] };
}

const FILLS = { blank: "nothing", nearest: "the nearest section", between: "a mixture of its neighbours" };

export function describe(entry) {
  const fix = entry.fix;
  if (entry.table === "pair") return `${fix.fixed} and ${fix.moving}: ${fix.points.length} same ${fix.points.length === 1 ? "point" : "points"}`;
  if (entry.table === "jump") return `${fix.z}: the jump before it is ${fix.action === "keep" ? "kept" : "undone"}`;
  const parts = [];
  if (fix.action === "exclude") parts.push(`left out, shows ${FILLS[fix.fill ?? "blank"]}`);
  if (fix.action === "turn") parts.push([fix.mirror ? "mirrored" : "", fix.angle ? `turned by ${fix.angle}°` : ""].filter(Boolean).join(", "));
  if (fix.action === "invert") parts.push("inverted");
  if (fix.action === "place") parts.push("placed by a map");
  if (fix.action === "swap") parts.push(`has changed places with ${fix.with}`);
  if (fix.mask !== undefined) parts.push(typeof fix.mask === "string" ? `mask ${fix.mask}` : `${fix.mask.length} ${fix.mask.length === 1 ? "region" : "regions"} without tissue`);
  if (fix.split !== undefined) parts.push(`${fix.split.length} fold ${fix.split.length === 1 ? "line" : "lines"}`);
  const where = fix.z ?? fix.sections.split(":").map((n, i) => Number(n) - i).join("–");
  return `${where}: ${parts.join("; ")}`;
}
