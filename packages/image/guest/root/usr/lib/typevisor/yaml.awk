# Reads the YAML that cloud-config files are written in, JSON included, and prints one line per leaf:
#
#   users/0/name=kim
#   write_files/0/content=one\ntwo\n        (backslash and newline are escaped, nothing else)
#   runcmd/1/#=3                            (a list's length, after its items)
#
# Known: block mappings and lists, flow ([..], {..}), plain and quoted scalars, | and > blocks, comments. Not known (said on stderr, exit
# status 3): anchors, tags, plain scalars over several lines, several documents.

function fail(line, why) { print "user-data line " line ": " why >"/dev/stderr"; failed = 1; exit 3 }
function leaf(path, value) { gsub(/\\/, "\\\\", value); gsub(/\n/, "\\n", value); gsub(/\r/, "", value); print path "=" value }
function join(path, key) { gsub(/[^A-Za-z0-9_.-]/, "?", key); return path == "" ? key : path "/" key }
function indent(line) { match(line, /^ */); return RLENGTH }
function blank(line) { return line ~ /^[ \t]*(#.*)?$/ }
function skip() { while (at <= count && blank(lines[at])) at++ }
function trim(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }
function utf8(code) {
  if (code < 128) return sprintf("%c", code)
  if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
  return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
}
function hex(text,   i, value) {
  for (i = 1; i <= length(text); i++) value = value * 16 + index("0123456789abcdef", tolower(substr(text, i, 1))) - 1
  return value
}

# A quoted scalar that begins at `flow[pos]`; moves pos behind it.
function quoted(   quote, c, out, run) {
  quote = substr(flow, pos++, 1); out = ""
  while (1) {
    if (pos > length(flow)) fail(at, "a quoted text does not end")
    run = substr(flow, pos)
    if (quote == "\"" ? match(run, /^[^"\\]+/) : match(run, /^[^']+/)) { out = out substr(run, 1, RLENGTH); pos += RLENGTH; continue }
    c = substr(flow, pos++, 1)
    if (c == quote && quote == "'" && substr(flow, pos, 1) == "'") { out = out "'"; pos++; continue }
    if (c == quote) return out
    c = substr(flow, pos++, 1)
    if (c == "n") out = out "\n"
    else if (c == "t") out = out "\t"
    else if (c == "r") out = out "\r"
    else if (c == "e") out = out "\033"
    else if (c == "b" || c == "f" || c == "0" || c == "a" || c == "v") continue
    else if (c == "x") { out = out utf8(hex(substr(flow, pos, 2))); pos += 2 }
    else if (c == "u") { out = out utf8(hex(substr(flow, pos, 4))); pos += 4 }
    else if (c == "\n") { while (substr(flow, pos, 1) == " ") pos++ }
    else out = out c
  }
}
function space() {
  while (match(substr(flow, pos, 1), /[ \t\n]/) || (substr(flow, pos, 1) == "#" && substr(flow, pos - 1, 1) ~ /[ \t\n]/)) {
    if (substr(flow, pos, 1) == "#") while (pos <= length(flow) && substr(flow, pos, 1) != "\n") pos++
    else pos++
  }
}
function node(path, depth,   c, items, key, text) {
  if (depth > 32) fail(at, "nested more than 32 deep")
  space(); c = substr(flow, pos, 1)
  if (c == "[") {
    pos++
    for (items = 0; ; ) {
      space(); c = substr(flow, pos, 1)
      if (c == "]") { pos++; break }
      if (c == "") fail(at, "a list does not end, want ]")
      node(join(path, items++), depth + 1); space()
      if (substr(flow, pos, 1) == ",") pos++
      else if (substr(flow, pos, 1) != "]") fail(at, "in a list: got " substr(flow, pos, 10) ", want , or ]")
    }
    leaf(path "/#", items); return
  }
  if (c == "{") {
    pos++
    while (1) {
      space(); c = substr(flow, pos, 1)
      if (c == "}") { pos++; return }
      if (c == "") fail(at, "a mapping does not end, want }")
      if (c == "\"" || c == "'") key = quoted()
      else { match(substr(flow, pos), /^[^]:,{}[\n]*/); key = trim(substr(flow, pos, RLENGTH)); pos += RLENGTH }
      space()
      if (substr(flow, pos, 1) != ":") fail(at, "in a mapping: got " substr(flow, pos, 10) ", want : after " key)
      pos++; node(join(path, key), depth + 1); space()
      if (substr(flow, pos, 1) == ",") pos++
      else if (substr(flow, pos, 1) != "}") fail(at, "in a mapping: got " substr(flow, pos, 10) ", want , or }")
    }
  }
  if (c == "\"" || c == "'") { leaf(path, quoted()); return }
  match(substr(flow, pos), /^[^],{}[\n]*/); text = trim(substr(flow, pos, RLENGTH)); pos += RLENGTH
  sub(/[ \t]#.*$/, "", text); scalar(path, text)
}
function scalar(path, text) {
  if (text ~ /^[&*!]/) fail(at, "anchors and tags are not known: " text)
  if (text != "" && text != "~" && text != "null") leaf(path, text)
}
# The rest of a line (and as many more as a flow or quoted value takes).
function value(path, text,   parent, start) {
  text = trim(text)
  if (text ~ /^[|>]/) { block(path, text); return }
  if (text ~ /^[[{"']/) {
    flow = text; start = at
    for (at++; at <= count; at++) flow = flow "\n" lines[at]
    at = start; pos = 1; node(path, 1)
    text = substr(flow, 1, pos - 1); at = start + gsub(/\n/, "\n", text)
    text = substr(flow, pos); sub(/\n.*$/, "", text)
    if (!blank(text)) fail(at, "after a value: " trim(text))
    at++; return
  }
  sub(/[ \t]#.*$/, "", text); scalar(path, trim(text)); at++
}
function block(path, head,   base, own, text, line, lineIndent, folded, last) {
  base = parentIndent; folded = head ~ /^>/; own = -1; text = ""; last = ""
  for (at++; at <= count; at++) {
    line = lines[at]
    if (line ~ /^ *$/) { text = text "\n"; last = ""; continue }
    lineIndent = indent(line)
    if (own < 0) { if (lineIndent <= base) break; own = lineIndent }
    if (lineIndent < own) break
    if (folded && last != "") text = substr(text, 1, length(text) - 1) " "
    last = substr(line, own + 1); text = text last "\n"
  }
  if (head !~ /\+/) sub(/\n+$/, "\n", text)
  if (head ~ /-/) sub(/\n+$/, "", text)
  leaf(path, text)
}
function collection(path, depth,   own, items, line, rest, key, next_) {
  if (depth > 32) fail(at, "nested more than 32 deep")
  skip(); own = indent(lines[at]); items = 0
  while (1) {
    skip()
    if (at > count || indent(lines[at]) < own) break
    line = lines[at]
    if (indent(line) > own) fail(at, "indented more than what is above")
    rest = substr(line, own + 1)
    if (rest ~ /^\t/) fail(at, "a tab indents, want spaces")
    if (rest ~ /^-([ \t]|$)/) {
      rest = substr(rest, 2); parentIndent = own
      if (blank(rest)) {
        at++; skip()
        if (at <= count && indent(lines[at]) > own) collection(join(path, items++), depth + 1); else items++
      } else if (rest ~ /^[ ]+-([ ]|$)/ || isKey(trim(rest))) {
        lines[at] = sprintf("%" (own + 1) "s", "") rest
        collection(join(path, items++), depth + 1)
      } else value(join(path, items++), rest)
      continue
    }
    if (items > 0) break
    if (!isKey(rest)) fail(at, "got " substr(trim(rest), 1, 40) ", want `key: value` or `- item`")
    key = substr(rest, 1, keyLength); rest = substr(rest, keyLength + 1); sub(/:$/, "", key)
    if (key ~ /^".*"$/ || key ~ /^'.*'$/) key = substr(key, 2, length(key) - 2)
    key = trim(key); parentIndent = own
    if (blank(rest)) {
      at++; skip()
      if (at <= count && (indent(lines[at]) > own || (indent(lines[at]) == own && lines[at] ~ /^ *-([ ]|$)/))) collection(join(path, key), depth + 1)
    } else value(join(path, key), rest)
  }
  if (items > 0) leaf(path "/#", items)
}
# Does a text begin with `key:`? Sets keyLength to the key with its colon.
function isKey(text) {
  if (match(text, /^("[^"]*"|'[^']*'|[^] \t"'{}[,&*!|>%@`#][^:#]*(:[^ \t:#][^:#]*)*)[ \t]*:([ \t]|$)/)) {
    keyLength = index(substr(text, 1, RLENGTH), ":")
    if (match(text, /:([ \t]|$)/)) keyLength = RSTART
    return 1
  }
  return 0
}
{ sub(/\r$/, ""); if ($0 == "---" && count == 0) next; if ($0 == "---" || $0 == "...") exit; lines[++count] = $0 }
END {
  if (failed) exit 3
  at = 1; skip()
  if (at > count) exit 0
  if (trim(lines[at]) ~ /^[[{]/) { parentIndent = -1; value("", lines[at]) }
  else collection("", 1)
  skip()
  if (at <= count) fail(at, "got " substr(trim(lines[at]), 1, 40) ", want the end")
}
