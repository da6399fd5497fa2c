/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_NBD_H
#define TESTS_UNIT_SUPPORT_NBD_H
/*
 * An NBD client that says any bytes and checks every byte it hears, over a pipe to our server; and a
 * server with exports on memory disks. All in coroutines; cmocka's assertions inside.
 */
#include "net/nbd/nbd_spec.h"
#include "tests/unit/memdisk.h"
#include "tests/unit/support.h"
#include "tests/unit/support_duplex.h"

#define TEST_MAX_CONNECTIONS   6
#define TEST_HANDSHAKE_SECONDS 3

/* ---- the server ---- */

void nbd_test_server(void); /* --nbd-server, once per program */
/* Node "mem" with these options, and an export of it. */
struct node *nbd_test_export(const char *node, const char *mem_options, const char *export);
void nbd_test_unexport(const char *id, const char *node);

/* ---- the client ---- */

enum mode { SIMPLE, STRUCTURED, EXTENDED };
struct client {
    struct stream *s, *server; /* ours, and the other end: to stall it */
    enum mode mode;
    uint64_t size; /* as told */
    uint16_t flags;
};
void client_connect(struct client *c, const struct duplex_options *o); /* and checks the greeting */
void client_close(struct client *c);
void say(struct client *c, const void *p, size_t n);
void say8(struct client *c, uint8_t v);
void say16(struct client *c, uint16_t v);
void say32(struct client *c, uint32_t v);
void say64(struct client *c, uint64_t v);
void say_text(struct client *c, const char *s);
uint16_t hear16(struct client *c);
uint32_t hear32(struct client *c);
uint64_t hear64(struct client *c);
void hear(struct client *c, void *p, size_t n);
void hear_skip(struct client *c, size_t n);
void hear_end(struct client *c);     /* the server closed, no byte came before */
void hear_nothing(struct client *c); /* the server is silent, and the connection is open */

/* Handshake. */
void client_hello(struct client *c, const struct duplex_options *o); /* connect, flags 3 */
void say_option(struct client *c, uint32_t option, const void *data, uint32_t len);
uint32_t hear_reply(struct client *c, uint32_t option, uint32_t *len); /* type; data follows */
void expect_ack(struct client *c, uint32_t option);
void expect_error(struct client *c, uint32_t option, uint32_t error); /* text skipped */
/* GO and INFO. `infos`: ended by -1. */
void say_info(struct client *c, uint32_t option, const char *name, const int *infos);
void expect_info_and_ack(struct client *c, uint32_t option);
void say_meta(struct client *c, uint32_t option, const char *export, unsigned n, ...);
uint32_t hear_context(struct client *c, uint32_t option); /* its id */
/* All of it: into transmission. block_size: ask for it; status: select base:allocation (id 1). */
void client_go(struct client *c, const char *name, enum mode mode, bool status, bool block_size);
void client_open(struct client *c, const char *name, enum mode mode);

/* Transmission. */
void say_request(struct client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
                 uint64_t len);
void say_write(struct client *c, uint16_t flags, uint64_t cookie, uint64_t offset, const void *p,
               size_t len);
/* A reply without data: the NBD error. */
uint32_t hear_status(struct client *c, uint64_t cookie, uint64_t offset);
struct chunk_head {
    uint16_t flags, type;
    uint64_t cookie, offset, len;
};
void hear_chunk(struct client *c, struct chunk_head *h);
/* A whole reply to READ; checks the chunk rules; the error, 0 with `data` filled. chunks, holes: how
 * many content chunks came (NULL: do not care). */
uint32_t hear_read(struct client *c, uint64_t cookie, uint64_t offset, void *data, size_t len,
                   unsigned *chunks, unsigned *holes);
/* One request and its reply. */
uint32_t do_read(struct client *c, uint64_t offset, void *data, size_t len);
uint32_t do_write(struct client *c, uint16_t flags, uint64_t offset, const void *p, size_t len);
uint32_t do_cmd(struct client *c, uint16_t type, uint16_t flags, uint64_t offset, uint64_t len);
uint8_t pattern(uint64_t at); /* of test data */
void fill_pattern(uint8_t *p, uint64_t at, size_t n);
#endif
