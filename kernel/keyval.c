/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "driver=qcow2,node-name=vol0,file.driver=virtio-blk,file.serial=a,,b" as a tree of strings.
 *
 * Grammar, QEMU's: parameters are separated by ','; a value ends at a single ','; keys are fragments
 * joined by '.', each a name (letter, then letters, digits, '-', '_') or, not at the start, a decimal
 * number. A key that is said twice: the last one counts. When all was read, dictionaries whose keys
 * are the numbers 0 .. n-1 become lists.
 *
 * Depth: a key has at most 127 bytes, so at most 64 fragments.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "kernel/fault.h"
#include "kernel/schema.h"

#define KEY_MAX 127

static int no_memory(struct error *err)
{
    return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
}

static bool is_number(const char *s, size_t len)
{
    return len && strspn(s, "0123456789") >= len;
}

static bool is_name(const char *s, size_t len)
{
    if (!len || !isalpha((unsigned char)*s))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '-' && s[i] != '_')
            return false;
    return true;
}

static int check_key(const char *key, struct error *err)
{
    for (const char *s = key;; s++) {
        size_t len = strcspn(s, ".");
        if (!is_name(s, len) && (s == key || !is_number(s, len)))
            return error_set(err, SR_EINVAL, "Invalid parameter '%s'", key);
        s += len;
        if (!*s)
            return 0;
    }
}

/* The dictionary in `dict` by that name, made when absent. NULL: it is a string, or no memory. */
static struct value *subdict(struct value *dict, const char *name, struct error *err)
{
    struct value *sub = value_get(dict, name);
    if (sub)
        return value_kind(sub) == VALUE_DICT ? sub : NULL;
    if (value_dict_set(dict, name, value_dict()))
        no_memory(err);
    return value_get(dict, name);
}

/* Takes ownership of item. Cuts key into pieces, and puts it together again for an error. */
static int put(struct value *dict, char *key, struct value *item, struct error *err)
{
    char *fragment = key, *dot;
    while ((dot = strchr(fragment, '.'))) {
        *dot = 0;
        struct value *sub = subdict(dict, fragment, err);
        *dot = '.';
        if (!sub) {
            value_free(item);
            return error_set(err, SR_EINVAL, "Parameters '%.*s.*' used inconsistently",
                             (int)(dot - key), key);
        }
        dict = sub;
        fragment = dot + 1;
    }
    struct value *old = value_get(dict, fragment);
    if (old && value_kind(old) == VALUE_DICT) {
        value_free(item);
        return error_set(err, SR_EINVAL, "Parameters '%s.*' used inconsistently", key);
    }
    return value_dict_set(dict, fragment, item) ? no_memory(err) : 0;
}

/* The value at *text up to a single comma; *text goes behind that comma. */
static struct value *take_value(const char **text)
{
    const char *s = *text;
    char *copy = sr_malloc(strlen(s) + 1);
    if (!copy)
        return NULL;
    size_t n = 0;
    for (; *s; s++) {
        if (*s == ',' && *++s != ',')
            break;
        copy[n++] = *s;
    }
    *text = s;
    struct value *v = value_strn(copy, n);
    sr_free(copy);
    return v;
}

/* One parameter at *text; moves *text behind it and its comma. */
static int take_parameter(struct value *dict, const char **text, const char *implied,
                          struct error *err)
{
    char key[KEY_MAX + 1];
    size_t len = strcspn(*text, "=,");
    if (implied && len && (*text)[len] != '=') {
        snprintf(key, sizeof(key), "%s", implied);
    } else {
        if (len > KEY_MAX)
            return error_set(err, SR_EINVAL, "Invalid parameter '%.*s'", (int)len, *text);
        memcpy(key, *text, len);
        key[len] = 0;
        int rc = check_key(key, err);
        if (rc)
            return rc;
        if ((*text)[len] != '=')
            return error_set(err, SR_EINVAL, "Expected '=' after parameter '%s'", key);
        *text += len + 1;
    }
    struct value *v = take_value(text);
    return v ? put(dict, key, v, err) : no_memory(err);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

/* All strings in `prefix` end in '.'. */
struct place {
    char text[KEY_MAX + 2];
};

static struct value *to_list(struct value *dict, const char *prefix, struct error *err)
{
    struct value *list = value_list();
    size_t count = value_count(dict);
    for (size_t i = 0; list && i < count; i++) {
        char key[24];
        snprintf(key, sizeof(key), "%zu", i);
        struct value *item = value_dict_take(dict, key);
        if (!item)
            error_set(err, SR_EINVAL, "Parameter '%s%s' missing", prefix, key);
        if (!item || value_list_add(list, item)) {
            value_free(list);
            list = NULL;
        }
    }
    if (!list)
        no_memory(err);
    return list;
}

static size_t count_numbers(const struct value *dict)
{
    size_t n = 0;
    for (size_t i = 0; i < value_count(dict); i++) {
        const char *key = value_key_at(dict, i);
        n += is_number(key, strlen(key));
    }
    return n;
}

/* Turns what lies in dict under `key`, and everything below, into lists where it is one. `place` is
 * the name of dict. */
static int listify(struct value *dict, struct place *place, size_t len, struct error *err)
{
    for (size_t i = 0; i < value_count(dict); i++) {
        const char *key = value_key_at(dict, i);
        struct value *sub = value_at(dict, i);
        if (value_kind(sub) != VALUE_DICT)
            continue;
        size_t n = len + (size_t)snprintf(place->text + len, sizeof(place->text) - len, "%s.", key);
        int rc = listify(sub, place, n, err);
        size_t numbers = count_numbers(sub);
        place->text[n] = 0;
        if (!rc && numbers && numbers < value_count(sub))
            rc = error_set(err, SR_EINVAL, "Parameters '%s*' used inconsistently", place->text);
        if (!rc && numbers) {
            struct value *list = to_list(sub, place->text, err);
            rc = list ? value_dict_set(dict, key, list) : SR_EINVAL;
        }
        if (rc)
            return rc;
    }
    return 0;
}

struct value *schema_parse_keyval(const char *text, const char *implied, struct error *err)
{
    struct place place = {""};
    struct value *dict = value_dict();
    int rc = dict ? 0 : no_memory(err);
    for (const char *s = text; !rc && *s; implied = NULL)
        rc = take_parameter(dict, &s, implied, err);
    if (!rc)
        rc = listify(dict, &place, 0, err);
    if (!rc)
        return dict;
    value_free(dict);
    return NULL;
}
