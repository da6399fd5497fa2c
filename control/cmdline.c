/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line. A word that begins with "--" is an option's name; its value follows behind '='
 * or as the next word:
 *
 *     --blockdev driver=raw,node-name=a,file=b     --blockdev={"driver": "raw", ...}
 *
 * On the firmware it is one text: words end at blanks outside quotes, braces and brackets. Quotes
 * outside of braces only group and are taken away; inside they belong to JSON and stay. Words that
 * are no options are the boot loader's there, and a mistake in a process's arguments.
 *
 * Options run in their order, each complete before the next. The first that fails ends it; its line
 * is printed here.
 */
#include "control/control.h"

#include <stdio.h>
#include <string.h>

#include "blk/blk.h"
#include "control/dispatch.h"
#include "control/json.h"
#include "kernel/kernel.h"

#define DEFAULT_PORT "10809"
#define VALUE_SHOWN  1024 /* of a longer one: the sentence must fit on the line */

/* ---- One option ------------------------------------------------------------------------------ */

static const struct option_def *find_option(const char *name, size_t len)
{
    registry_for_each (option, it) {
        if (!strncmp((*it)->name, name, len) && !(*it)->name[len])
            return *it;
    }
    return NULL;
}

static int co_apply_value(const struct option_def *o, const char *value, struct error *err)
{
    bool text = *value != '{';
    struct value *v =
        text ? schema_parse_keyval(value, o->implied, err) : json_parse(value, strlen(value), err);
    int rc = v ? co_option_run(o, v, text, err) : SR_EINVAL;
    value_free(v);
    return rc;
}

static void report(const char *name, size_t len, const char *value, const char *sentence)
{
    bool longer = value && strlen(value) > VALUE_SHOWN;
    log_plain("error: --%.*s%s%.*s%s: %s", (int)MIN(len, (size_t)VALUE_SHOWN), name,
              value ? " " : "", VALUE_SHOWN, value ? value : "", longer ? "..." : "", sentence);
}

/* `word` is "--name" or "--name=..."; `next` the word behind it or NULL. Returns how many words
 * it took, or an error. */
static int co_apply_option(const char *word, const char *next)
{
    struct error err = {0};
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct option_def *o = find_option(name, len);
    const char *value = equals ? equals + 1 : next && strncmp(next, "--", 2) ? next : NULL;
    int rc;
    if (!o)
        rc = error_set(&err, SR_EINVAL, "unrecognized option '--%.*s'", (int)len, name);
    else if (!value)
        rc = error_set(&err, SR_EINVAL, "option '--%s' requires an argument", o->name);
    else
        rc = co_apply_value(o, value, &err);
    if (!rc)
        return equals ? 1 : 2;
    report(name, len, value, err.set ? err.msg : sr_strerror(rc));
    return rc;
}

/* ---- A process's words ----------------------------------------------------------------------- */

int co_control_apply_argv(int argc, char **argv)
{
    for (int i = 0; i < argc;) {
        if (strncmp(argv[i], "--", 2)) {
            log_plain("error: %s: Unexpected argument", argv[i]);
            return SR_EINVAL;
        }
        int took = co_apply_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL);
        if (took < 0)
            return took;
        i += took;
    }
    return 0;
}

/* ---- The firmware's text --------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Takes the next word off *text, ended and without grouping quotes, in place. NULL: no more. */
static char *next_word(char **text)
{
    char *from = *text, *to, *word, quote = 0;
    unsigned depth = 0;
    while (is_blank(*from))
        from++;
    if (!*from)
        return NULL;
    for (word = to = from; *from && (quote || depth || !is_blank(*from)); from++) {
        bool drop = false;
        if (quote) {
            drop = *from == quote && !depth;
            if (depth && *from == '\\' && from[1])
                *to++ = *from++;
            else if (*from == quote)
                quote = 0;
        } else if (*from == '"' || (*from == '\'' && !depth)) {
            quote = *from;
            drop = !depth;
        } else if (*from == '{' || *from == '[') {
            depth++;
        } else if (*from == '}' || *from == ']') {
            depth -= depth > 0;
        }
        if (!drop)
            *to++ = *from;
    }
    *text = *from ? from + 1 : from;
    *to = 0;
    return word;
}

static bool is_configuration(const char *word)
{
    static const char *const names[] = {"--blockdev", "--export", "--nbd-server"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        size_t n = strlen(names[i]);
        if (!strncmp(word, names[i], n) && (!word[n] || word[n] == '='))
            return true;
    }
    return false;
}

int co_control_apply_text(const char *cmdline, bool *configured)
{
    char *copy = sr_strdup(cmdline), *rest = copy;
    if (!copy)
        return SR_ENOMEM;
    char *word = next_word(&rest);
    int took = 0;
    while (word && took >= 0) {
        char *next = next_word(&rest);
        took = 1;
        if (!strncmp(word, "--", 2) && word[2]) {
            *configured |= is_configuration(word);
            took = co_apply_option(word, next);
        }
        word = took == 2 ? next_word(&rest) : next;
    }
    sr_free(copy);
    return MIN(took, 0);
}

/* ---- Nothing configured ---------------------------------------------------------------------- */

/* Serial numbers are the device's: only plain ones become names. */
static bool is_name(const char *serial)
{
    for (const char *p = serial; *p; p++)
        if (*p <= ' ' || *p > '~' || *p == ',')
            return false;
    return *serial;
}

static bool is_unique(const struct disk *d)
{
    list_for_each (other, disk_list(), struct disk, link) {
        if (other != d && !strcmp(other->serial, d->serial))
            return false;
    }
    return true;
}

static int co_serve_disk(const struct disk *d)
{
    char words[192], name[48];
    snprintf(name, sizeof(name), "disk%u", d->index);
    snprintf(words, sizeof(words), "--blockdev=driver=%s,node-name=%s,index=%u,read-only=on",
             d->driver, name, d->index);
    int rc = co_apply_option(words, NULL);
    if (rc < 0)
        return rc;
    snprintf(words, sizeof(words), "--export=type=nbd,id=%s,node-name=%s,name=%s", name, name,
             is_name(d->serial) && is_unique(d) ? d->serial : name);
    return co_apply_option(words, NULL);
}

int co_control_default_config(void)
{
    log_plain("warning: no configuration: serving every disk over NBD on port " DEFAULT_PORT
              ", raw, read-only");
    int rc = co_apply_option(
        "--nbd-server=addr.type=inet,addr.host=0.0.0.0,addr.port=" DEFAULT_PORT, NULL);
    list_for_each (d, disk_list(), struct disk, link) {
        if (rc >= 0)
            rc = co_serve_disk(d);
    }
    return MIN(rc, 0);
}
