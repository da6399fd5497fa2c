/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The grammatical half of JSON, by json-c: one complete document, already lexed, becomes a value
 * tree. The only user of json-c.
 *
 * What json-c lacks and how it is made up for:
 *   - it does not survive a failing malloc (keys become NULL, strings are cut): so the memory that the document can need at most is asked
 *     for beforehand and given back at once; nothing else runs in between;
 *   - of duplicate keys the last one wins, silently: so the tree's members are counted against the document's colons;
 *   - numbers saturate: the lexer has checked integers; doubles that overflowed are found here.
 * Recursion is as deep as the document, JSON_MAX_DEPTH at most.
 */
#include <json-c/json.h>
#include <string.h>

#include "control/json.h"
#include "kernel/board.h"
#include "kernel/fault.h"

/* json-c's hash tables ask for their seed, and take -1 for "ask again". */
int json_c_get_random_seed(void);
int json_c_get_random_seed(void)
{
    int seed = 0;
    board_entropy(&seed, sizeof(seed));
    return seed == -1 ? 0 : seed;
}

struct conversion {
    size_t members;
    const char *fault; /* sentence; NULL: out of memory */
};

static struct value *convert(struct json_object *o, struct conversion *c);

static struct value *convert_int(struct json_object *o)
{
    int64_t i = json_object_get_int64(o); /* saturates where uint64 does not */
    return i == INT64_MAX ? value_uint(json_object_get_uint64(o)) : value_int(i);
}

static struct value *convert_double(struct json_object *o, struct conversion *c)
{
    double d = json_object_get_double(o);
    if (__builtin_isfinite(d))
        return value_double(d + 0.0); /* no negative zero: it would be printed as an integer */
    c->fault = "JSON parse error, number out of range";
    return NULL;
}

static struct value *convert_list(struct json_object *o, struct conversion *c)
{
    struct value *list = value_list();
    for (size_t i = 0; list && i < json_object_array_length(o); i++)
        if (value_list_add(list, convert(json_object_array_get_idx(o, i), c))) {
            value_free(list);
            return NULL;
        }
    return list;
}

static struct value *convert_dict(struct json_object *o, struct conversion *c)
{
    if ((unsigned)json_object_object_length(o) > JSON_MAX_MEMBERS) {
        c->fault = "JSON object member limit exceeded";
        return NULL;
    }
    struct value *dict = value_dict();
    json_object_object_foreach(o, key, item)
    {
        if (!dict || value_dict_set(dict, key, convert(item, c))) {
            value_free(dict);
            return NULL;
        }
        c->members++;
    }
    return dict;
}

static struct value *convert(struct json_object *o, struct conversion *c)
{
    switch (json_object_get_type(o)) {
    case json_type_null:
        return value_null();
    case json_type_boolean:
        return value_bool(json_object_get_boolean(o));
    case json_type_int:
        return convert_int(o);
    case json_type_double:
        return convert_double(o, c);
    case json_type_string:
        return value_strn(json_object_get_string(o), (size_t)json_object_get_string_len(o));
    case json_type_array:
        return convert_list(o, c);
    default:
        return convert_dict(o, c);
    }
}

/* An upper bound of what json-c allocates, with its tables of 16 members and lists of 32 items,
 * and the copies while one of them grows. */
static bool memory_suffices(const struct json_lexer *l)
{
    size_t most = 8192 + 1536 * (size_t)l->objects + 768 * (size_t)l->lists +
                  192 * (size_t)l->tokens + 4 * l->len;
    void *p = sr_malloc(most);
    sr_free(p);
    return p;
}

/* `at`: the byte that json-c did not like. */
static const char *sentence(enum json_tokener_error e, char at)
{
    switch (e) {
    case json_tokener_error_parse_object_key_name:
        if (at && strchr("]}:,", at))
            return "JSON parse error, expecting value";
        return "JSON parse error, key is not a string in object";
    case json_tokener_error_parse_object_key_sep:
        return "JSON parse error, missing : in object pair";
    case json_tokener_error_parse_object_value_sep:
        return "JSON parse error, expected separator in dict";
    case json_tokener_error_parse_array:
        return "JSON parse error, expected separator in list";
    default:
        return "JSON parse error, expecting value";
    }
}

static struct value *to_value(const struct json_lexer *l, struct json_object *o, struct error *err)
{
    struct conversion c = {0};
    struct value *v = convert(o, &c);
    if (v && c.members != l->colons) {
        value_free(v);
        v = NULL;
        c.fault = "JSON parse error, duplicate key";
    }
    if (!v)
        error_set(err, SR_EINVAL, "%s", c.fault ? c.fault : sr_strerror(SR_ENOMEM));
    return v;
}

struct value *json_tree(const struct json_lexer *l, struct error *err)
{
    /* One level more: json-c counts a scalar in the innermost list as a level. */
    struct json_tokener *t = memory_suffices(l) ? json_tokener_new_ex(JSON_MAX_DEPTH + 2) : NULL;
    if (!t) {
        error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
        return NULL;
    }
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    /* With the NUL: it ends a number. */
    struct json_object *o = json_tokener_parse_ex(t, l->text, (int)l->len + 1);
    enum json_tokener_error e = json_tokener_get_error(t);
    struct value *v = NULL;
    if (e != json_tokener_success || json_tokener_get_parse_end(t) < l->len)
        error_set(err, SR_EINVAL, "%s",
                  sentence(e, l->text[MIN(json_tokener_get_parse_end(t), l->len)]));
    else
        v = to_value(l, o, err);
    json_object_put(o);
    json_tokener_free(t);
    return v;
}
