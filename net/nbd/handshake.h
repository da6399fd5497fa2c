/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NET_NBD_HANDSHAKE_H
#define NET_NBD_HANDSHAKE_H
/*
 * Option haggling, between handshake.c (the dialogue) and options.c (options with contents).
 *
 * An option's data is read field by field through haggle_take, which never goes beyond the length
 * that the option's header gave. Handlers return HAGGLE_*, or SR_EINVAL for data that is
 * syntactically wrong (the caller skips the rest and answers ERR_INVALID), or another SR_E* when
 * the stream failed.
 */
#include "net/nbd/nbd.h"

enum { HAGGLE_ON = 0, HAGGLE_TRANSMISSION = 1, HAGGLE_CLOSE = 2 };

struct haggle {
    struct nbd_conn *c;
    struct list link; /* of those in use, by age */
    uint32_t option;
    uint32_t left; /* bytes of the option's data that were not read yet */
    uint8_t name[NBD_MAX_STRING];
    size_t reply_len;
    uint8_t reply[2 * NBD_MAX_STRING + 512]; /* a name, a description, and some headers */
};

int co_haggle_take(struct haggle *h, void *dst, uint32_t n);
int co_haggle_take_string(struct haggle *h, uint32_t n); /* into h->name */
/* Replies gather in h->reply and leave by co_haggle_send. */
void haggle_reply(struct haggle *h, uint32_t type, const void *data, size_t len);
/* The same in two parts: `head` and then `text`. */
void haggle_reply2(struct haggle *h, uint32_t type, const void *head, size_t head_len,
                   const char *text, size_t text_len);
int co_haggle_send(struct haggle *h);
/* Skips what is left of the option, answers with an error and a sentence: HAGGLE_ON. */
int co_haggle_refuse(struct haggle *h, uint32_t error, const char *sentence);

int co_opt_export_name(struct haggle *h);
int co_opt_list(struct haggle *h);
int co_opt_info(struct haggle *h); /* and GO */
int co_opt_list_meta(struct haggle *h);
int co_opt_set_meta(struct haggle *h);
#endif
