/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Value trees.
 *
 *     struct value ── kind, and one of: bool, integer, double
 *                     a string: its bytes and a NUL, behind the node
 *                     items[0 .. count)   a list, or a dictionary's values
 *                     keys[0 .. count)    of a dictionary, beside the items
 *
 * Arrays double when they are full. A dictionary is searched from its start: people write a dozen
 * keys, and json.c refuses objects that are large on purpose. Recursion is as deep as the tree,
 * which its makers bound (64 levels).
 */
#include "kernel/value.h"

#include <string.h>

#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/log.h"

struct value {
    enum value_kind kind;
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double d;
        struct {
            size_t count, room;
            struct value **items;
            char **keys;
        };
    };
};

static struct value *value_new(enum value_kind kind, size_t text)
{
    struct value *v = sr_malloc(sizeof(*v) + text);
    if (v) {
        memset(v, 0, sizeof(*v));
        v->kind = kind;
    }
    return v;
}

enum value_kind value_kind(const struct value *v)
{
    return v->kind;
}

struct value *value_null(void)
{
    return value_new(VALUE_NULL, 0);
}

struct value *value_bool(bool b)
{
    struct value *v = value_new(VALUE_BOOL, 0);
    if (v)
        v->b = b;
    return v;
}

struct value *value_int(int64_t i)
{
    struct value *v = value_new(VALUE_INT, 0);
    if (v)
        v->i = i;
    return v;
}

struct value *value_uint(uint64_t u)
{
    struct value *v = value_new(u > INT64_MAX ? VALUE_UINT : VALUE_INT, 0);
    if (v)
        v->u = u;
    return v;
}

struct value *value_double(double d)
{
    struct value *v = value_new(VALUE_DOUBLE, 0);
    if (v)
        v->d = d;
    return v;
}

struct value *value_strn(const char *s, size_t len)
{
    struct value *v = value_new(VALUE_STR, len + 1);
    if (v) {
        char *text = (char *)(v + 1);
        memcpy(text, s, len);
        text[len] = 0;
    }
    return v;
}

struct value *value_str(const char *s)
{
    return value_strn(s, strlen(s));
}

struct value *value_list(void)
{
    return value_new(VALUE_LIST, 0);
}

struct value *value_dict(void)
{
    return value_new(VALUE_DICT, 0);
}

static bool is_container(const struct value *v)
{
    return v->kind == VALUE_LIST || v->kind == VALUE_DICT;
}

void value_free(struct value *v)
{
    if (!v)
        return;
    if (is_container(v)) {
        for (size_t i = 0; i < v->count; i++) {
            value_free(v->items[i]);
            if (v->kind == VALUE_DICT)
                sr_free(v->keys[i]);
        }
        sr_free(v->items);
        sr_free(v->keys);
    }
    sr_free(v);
}

/* ---- Reading --------------------------------------------------------------------------------- */

bool value_get_bool(const struct value *v)
{
    ASSERT(v->kind == VALUE_BOOL);
    return v->b;
}

int64_t value_get_int(const struct value *v)
{
    ASSERT(v->kind == VALUE_INT);
    return v->i;
}

uint64_t value_get_uint(const struct value *v)
{
    ASSERT(v->kind == VALUE_UINT || (v->kind == VALUE_INT && v->i >= 0));
    return v->u;
}

double value_get_double(const struct value *v)
{
    ASSERT(v->kind == VALUE_DOUBLE);
    return v->d;
}

const char *value_get_str(const struct value *v)
{
    ASSERT(v->kind == VALUE_STR);
    return (const char *)(v + 1);
}

size_t value_count(const struct value *v)
{
    ASSERT(is_container(v));
    return v->count;
}

struct value *value_at(const struct value *v, size_t i)
{
    ASSERT(is_container(v) && i < v->count);
    return v->items[i];
}

const char *value_key_at(const struct value *v, size_t i)
{
    ASSERT(v->kind == VALUE_DICT && i < v->count);
    return v->keys[i];
}

static size_t find_key(const struct value *dict, const char *key)
{
    ASSERT(dict->kind == VALUE_DICT);
    size_t i = 0;
    while (i < dict->count && strcmp(dict->keys[i], key))
        i++;
    return i;
}

struct value *value_get(const struct value *dict, const char *key)
{
    size_t i = find_key(dict, key);
    return i < dict->count ? dict->items[i] : NULL;
}

/* ---- Building -------------------------------------------------------------------------------- */

static void *grown(void *old, size_t count, size_t room)
{
    void *p = sr_malloc(room * sizeof(void *));
    if (p && count)
        memcpy(p, old, count * sizeof(void *));
    if (p)
        sr_free(old);
    return p;
}

/* Place for one more item (and key). What grew stays grown when the other fails. */
static bool make_room(struct value *v)
{
    if (v->count < v->room)
        return true;
    size_t room = v->room ? v->room * 2 : 4;
    struct value **items = grown(v->items, v->count, room);
    if (!items)
        return false;
    v->items = items;
    if (v->kind == VALUE_DICT) {
        char **keys = grown(v->keys, v->count, room);
        if (!keys)
            return false;
        v->keys = keys;
    }
    v->room = room;
    return true;
}

int value_list_add(struct value *list, struct value *item)
{
    ASSERT(list->kind == VALUE_LIST);
    if (!item || !make_room(list)) {
        value_free(item);
        return SR_ENOMEM;
    }
    list->items[list->count++] = item;
    return 0;
}

int value_dict_set(struct value *dict, const char *key, struct value *item)
{
    if (!item)
        return SR_ENOMEM;
    size_t i = find_key(dict, key);
    if (i < dict->count) {
        value_free(dict->items[i]);
        dict->items[i] = item;
        return 0;
    }
    char *copy = sr_strdup(key);
    if (!copy || !make_room(dict)) {
        sr_free(copy);
        value_free(item);
        return SR_ENOMEM;
    }
    dict->keys[i] = copy;
    dict->items[i] = item;
    dict->count++;
    return 0;
}

struct value *value_dict_take(struct value *dict, const char *key)
{
    size_t i = find_key(dict, key);
    if (i == dict->count)
        return NULL;
    struct value *item = dict->items[i];
    sr_free(dict->keys[i]);
    size_t behind = --dict->count - i;
    memmove(dict->items + i, dict->items + i + 1, behind * sizeof(dict->items[0]));
    memmove(dict->keys + i, dict->keys + i + 1, behind * sizeof(dict->keys[0]));
    return item;
}

void value_dict_remove(struct value *dict, const char *key)
{
    value_free(value_dict_take(dict, key));
}

static struct value *copy_container(const struct value *v)
{
    struct value *copy = value_new(v->kind, 0);
    for (size_t i = 0; copy && i < v->count; i++) {
        struct value *item = value_copy(v->items[i]);
        int rc = v->kind == VALUE_LIST ? value_list_add(copy, item)
                                       : value_dict_set(copy, v->keys[i], item);
        if (rc) {
            value_free(copy);
            return NULL;
        }
    }
    return copy;
}

struct value *value_copy(const struct value *v)
{
    if (is_container(v))
        return copy_container(v);
    if (v->kind == VALUE_STR)
        return value_str(value_get_str(v));
    struct value *copy = value_new(v->kind, 0);
    if (copy)
        *copy = *v;
    return copy;
}

static bool containers_equal(const struct value *a, const struct value *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct value *other = a->kind == VALUE_LIST ? b->items[i] : value_get(b, a->keys[i]);
        if (!other || !value_equal(a->items[i], other))
            return false;
    }
    return true;
}

bool value_equal(const struct value *a, const struct value *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case VALUE_NULL:
        return true;
    case VALUE_BOOL:
        return a->b == b->b;
    case VALUE_INT:
    case VALUE_UINT:
        return a->u == b->u;
    case VALUE_DOUBLE:
        return !(a->d < b->d) && !(a->d > b->d);
    case VALUE_STR:
        return !strcmp(value_get_str(a), value_get_str(b));
    default:
        return containers_equal(a, b);
    }
}
