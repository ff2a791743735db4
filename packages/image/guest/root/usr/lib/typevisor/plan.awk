# Turns the leaves that yaml.awk prints into calls of the functions in `cloud-init`. Every word from outside is a quoted argument: nothing
# in user-data is ever read as shell, except what runcmd and bootcmd say, which is meant to be.

function q(text) { gsub(/'/, "'\\''", text); return "'" text "'" }
function plain(text,   out, i, c) {
  if (index(text, "\\") == 0) return text
  out = ""
  while (i = index(text, "\\")) { c = substr(text, i + 1, 1); out = out substr(text, 1, i - 1) (c == "n" ? "\n" : c); text = substr(text, i + 2) }
  return out text
}
function get(path) { return (path in leaves) ? leaves[path] : "" }
function yes(text) { return tolower(text) ~ /^(true|yes|on|1)$/ }
function listed(path, i) { return (path "/" i) in leaves }
function keys(path, user,   i) { for (i = 0; i < get(path "/#") + 0; i++) print "add_key " q(user) " " q(get(path "/" i)) }
function commands(path, target,   i, j, line) {
  for (i = 0; i < get(path "/#") + 0; i++) {
    if ((path "/" i) in leaves) line = leaves[path "/" i]
    else for (line = "", j = 0; j < get(path "/" i "/#") + 0; j++) line = line (j ? " " : "") q(get(path "/" i "/" j))
    if (line != "") print "command " target " " q(line)
  }
}
{ at = index($0, "="); leaves[substr($0, 1, at - 1)] = plain(substr($0, at + 1)) }
END {
  name = get("fqdn") != "" ? get("fqdn") : get("local-hostname")
  if (get("hostname") != "") name = get("hostname")
  if (name != "") print "set_hostname " q(name)

  defaultUser = "root"
  for (i = 0; i < get("users/#") + 0; i++) {
    u = "users/" i
    if (get(u "/name") == "") { if (get(u) != "" && get(u) != "default") print "add_user " q(get(u)) " '' '' ''"; continue }
    user = get(u "/name")
    print "add_user " q(user) " " q(get(u "/gecos")) " " q(get(u "/shell")) " " q(get(u "/homedir"))
    keys(u "/ssh_authorized_keys", user); keys(u "/ssh-authorized-keys", user)
    if (get(u "/passwd") != "") print "set_password_hash " q(user) " " q(get(u "/passwd"))
    if (get(u "/hashed_passwd") != "") print "set_password_hash " q(user) " " q(get(u "/hashed_passwd"))
    if (get(u "/plain_text_passwd") != "") print "set_password " q(user) " " q(get(u "/plain_text_passwd"))
    if (get(u "/groups") != "") print "add_groups " q(user) " " q(get(u "/groups"))
    for (j = 0; j < get(u "/groups/#") + 0; j++) print "add_groups " q(user) " " q(get(u "/groups/" j))
  }
  # There is no sudo here: who holds the keys of the account that cloud-config gives sudo opens root as well, unless disable_root says no.
  if (!yes(get("disable_root"))) {
    keys("ssh_authorized_keys", defaultUser); keys("public-keys", defaultUser)
    if (get("public-keys") != "") print "add_key " q(defaultUser) " " q(get("public-keys"))
  }
  if (get("password") != "") print "set_password " q(defaultUser) " " q(get("password"))
  for (i = 0; i < get("chpasswd/users/#") + 0; i++) {
    u = "chpasswd/users/" i
    print (get(u "/type") == "hash" ? "set_password_hash " : "set_password ") q(get(u "/name")) " " q(get(u "/password"))
  }
  count = split(get("chpasswd/list"), pairs, "\n")
  for (i = 1; i <= count; i++) if (at = index(pairs[i], ":")) print "set_password " q(substr(pairs[i], 1, at - 1)) " " q(substr(pairs[i], at + 1))
  if (yes(get("ssh_pwauth"))) print "allow_password_login"
  if (get("timezone") != "") print "set_timezone " q(get("timezone"))
  for (i = 0; i < get("write_files/#") + 0; i++) {
    f = "write_files/" i
    print "write_file " q(get(f "/path")) " " q(get(f "/permissions")) " " q(get(f "/owner")) " " q(get(f "/encoding")) " " q(get(f "/append")) " " q(get(f "/content"))
  }
  commands("bootcmd", "boot"); commands("runcmd", "run")
  if (get("final_message") != "") print "final_message " q(get("final_message"))
}
