/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_VALUE_H
#define KERNEL_VALUE_H
/*
 * The value tree: what JSON text or `key=value,...` becomes, and what results become before they
 * are text. Nodes are allocated with sr_malloc and owned by their parent; value_free frees the
 * whole tree. Every maker returns NULL when memory is out; value_dict_set and value_list_add answer
 * SR_ENOMEM then, and take ownership of the item also when they fail (they free it); a NULL item is
 * such a failure, so that makers can stand in the call. Dictionaries keep insertion order; keys are
 * unique. Reading a value as another kind than it has is our own mistake and asserted. Recursion is
 * as deep as the tree: makers bound it. Control path, any loop (one at a time).
 */
#include "kernel/compiler.h"

enum value_kind {
    VALUE_NULL,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_UINT /* only > INT64_MAX */,
    VALUE_DOUBLE,
    VALUE_STR,
    VALUE_LIST,
    VALUE_DICT
};

struct value;
enum value_kind value_kind(const struct value *v);

struct value *value_null(void);
struct value *value_bool(bool b);
struct value *value_int(int64_t i);
struct value *value_uint(uint64_t u);
struct value *value_double(double d);
struct value *value_str(const char *s);              /* copies; UTF-8 */
struct value *value_strn(const char *s, size_t len); /* without NUL inside */
struct value *value_list(void);
struct value *value_dict(void);
void value_free(struct value *v); /* NULL is fine */

bool value_get_bool(const struct value *v);
int64_t value_get_int(const struct value *v);
uint64_t value_get_uint(const struct value *v);
double value_get_double(const struct value *v);
const char *value_get_str(const struct value *v); /* lives as long as v */
size_t value_count(const struct value *v);        /* of a list or dictionary */
struct value *value_at(const struct value *v, size_t i);
const char *value_key_at(const struct value *v, size_t i);
struct value *value_get(const struct value *dict, const char *key); /* NULL: absent */
int value_list_add(struct value *list, struct value *item);
int value_dict_set(struct value *dict, const char *key, struct value *item); /* replaces */
void value_dict_remove(struct value *dict, const char *key);
struct value *value_dict_take(struct value *dict,
                              const char *key); /* the caller's now; NULL: absent */
struct value *value_copy(const struct value *v);
bool value_equal(const struct value *a, const struct value *b);
#endif
