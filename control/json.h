/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_JSON_H
#define CONTROL_JSON_H
/*
 * JSON text to value trees and back, strict (RFC 8259), with QEMU's error sentences. Lengths in
 * bytes. A document has at most 1 MiB, 64 levels, 65,536 tokens and 1,024 members per object;
 * strings hold no NUL; integers are those of int64_t and uint64_t. The caller owns trees and texts
 * that come back (value_free, sr_free). Foreign bytes: every error is a sentence; err
 * is never NULL here and clear at the call. Loop 0; nothing
 * yields.
 */
#include "kernel/error.h"
#include "kernel/value.h"

#define JSON_MAX_BYTES   (1u << 20)
#define JSON_MAX_DEPTH   64
#define JSON_MAX_TOKENS  65536u
#define JSON_MAX_MEMBERS 1024u

/* Cuts a stream of bytes into documents and checks their lexical form; the grammar is json.c's. */
struct json_lexer {
    int state;
    char token[48]; /* the current token's beginning, for keywords and for errors */
    size_t token_len;
    unsigned utf8_left, utf8_low, utf8_high; /* continuation bytes wanted, and range of the next */
    unsigned hex_left, unit, high_unit;      /* \u escapes: digits wanted, value, first surrogate */
    uint32_t pair;                           /* the character of a pair just read, or 0 */
    uint64_t magnitude;                      /* of the integer being read */
    bool too_large, fraction;
    int braces, brackets;
    /* of the document so far */
    char *text;
    size_t len, room;
    unsigned tokens, colons, objects, lists;
    bool discard; /* an error was reported: skip to the document's end */
};
void json_lexer_init(struct json_lexer *l);
void json_lexer_free(struct json_lexer *l);
/* Takes bytes up to the end of a document or an error, whichever comes first, and returns how
 * many. Then *done is a tree, or err is set, or both are not: all bytes were taken and a
 * document is incomplete. After an error the lexer goes on by itself with the next document. */
size_t json_feed(struct json_lexer *l, const char *bytes, size_t n, struct value **done,
                 struct error *err);
/* The end of input: what is pending ends here. True when *done or err was set. */
bool json_feed_end(struct json_lexer *l, struct value **done, struct error *err);

/* One whole document. NULL with err. */
struct value *json_parse(const char *text, size_t len, struct error *err);
/* json.c, for the lexer: grammar and tree of l's document. */
struct value *json_tree(const struct json_lexer *l, struct error *err);

/* As QEMU prints: ", " and ": " between, pure ASCII; pretty: a line per item, four blanks per
 * level. NUL-terminated; NULL when memory is out. */
char *json_print(const struct value *v, bool pretty, size_t *len);
#endif
