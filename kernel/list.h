/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_LIST_H
#define KERNEL_LIST_H
/*
 * Intrusive lists. `struct list` is doubly linked and circular (head and link are the same type);
 * `struct queue` is a singly linked FIFO with O(1) append. Neither allocates; the owner of the
 * object owns the link. One loop at a time.
 */
#include "kernel/compiler.h"

struct list {
    struct list *next, *prev;
};
#define LIST_INIT(l) \
    {                \
        &(l), &(l)   \
    }

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_insert(
    struct list *at, struct list *n) /* after `at`: list_insert(head, n) makes n the first */
{
    n->next = at->next;
    n->prev = at;
    at->next->prev = n;
    at->next = n;
}
static inline void list_append(struct list *head, struct list *n)
{
    list_insert(head->prev, n);
}
static inline void list_remove(struct list *n) /* leaves n empty, so removing twice is harmless */
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}
#define list_entry(l, type, m) container_of(l, type, m)
#define list_first(head, type, m) \
    (list_empty(head) ? (type *)NULL : list_entry((head)->next, type, m))
#define list_for_each(it, head, type, m)                                 \
    for (type *it = list_entry((head)->next, type, m); &it->m != (head); \
         it = list_entry(it->m.next, type, m))
#define list_for_each_safe(it, head, type, m)                                                     \
    for (type *it = list_entry((head)->next, type, m), *it##_n = list_entry(it->m.next, type, m); \
         &it->m != (head); it = it##_n, it##_n = list_entry(it->m.next, type, m))

struct qlink {
    struct qlink *next;
};
struct queue {
    struct qlink *first, **tail;
};
static inline void queue_init(struct queue *q)
{
    q->first = NULL;
    q->tail = &q->first;
}
static inline bool queue_empty(const struct queue *q)
{
    return !q->first;
}
static inline void queue_push(struct queue *q, struct qlink *n)
{
    n->next = NULL;
    *q->tail = n;
    q->tail = &n->next;
}
static inline struct qlink *queue_pop(struct queue *q)
{
    struct qlink *n = q->first;
    if (n && !(q->first = n->next))
        q->tail = &q->first;
    return n;
}
#endif
