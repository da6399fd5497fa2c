/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The lexical half of JSON: bytes that arrive in any pieces become complete documents.
 *
 *             ┌────────── structural, blank ──────────┐
 *     START ──┼─ " ──► STRING ⇄ ESCAPE ⇄ HEX, UTF8 ───┤
 *             ├─ digit, - ──► number states ──────────┤ ──► document complete when no brace and no
 *             ├─ letter ──► KEYWORD ──────────────────┘     bracket is open: to json.c
 *             └─ else ──► error ──► RECOVERY ── structural or control byte ──► START
 *
 * As in QEMU's lexer, an error drops what was read and the next structural character or control
 * byte is where a document may begin; a client that lost its place sends 0xff and a newline.
 *
 * json-c is lenient in ways that matter (it takes single quotes, makes 2^64 - 1 of larger integers,
 * replaces bad UTF-8 and duplicate keys, loses some characters outside the BMP), and it does not survive a failing allocation. So it sees
 * only what passed here: strings without control bytes, NUL, bad UTF-8 or half surrogate pairs,
 * numbers in range, the three keywords, and a document of bounded size, depth and number of tokens.
 *
 * Limits are told at once, and the rest of that document is skipped, not taken for new ones.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "control/json.h"
#include "kernel/fault.h"

enum state {
    START,
    KEYWORD,
    STRING,
    ESCAPE,
    HEX,
    UTF8,
    MINUS,
    ZERO,
    DIGITS,
    POINT,
    FRACTION,
    EXPONENT,
    EXPONENT_SIGN,
    EXPONENT_DIGITS,
    RECOVERY
};
enum step { TAKEN, AGAIN /* this byte begins what comes next */ };

void json_lexer_init(struct json_lexer *l)
{
    *l = (struct json_lexer){.state = START};
}

void json_lexer_free(struct json_lexer *l)
{
    sr_free(l->text);
    json_lexer_init(l);
}

/* Ready for another document. */
static void forget(struct json_lexer *l, enum state state)
{
    json_lexer_free(l);
    l->state = state;
}

static bool is_structural(unsigned char c)
{
    return c && strchr("{}[]:,", c);
}

/* Control bytes but tab, and bytes that UTF-8 never has. */
static bool is_break(unsigned char c)
{
    return c == 0xfe || c == 0xff || (c < 0x20 && c != '\t');
}

/* ---- Errors ---------------------------------------------------------------------------------- */

/* `c` cannot go on: drop the document, look for the next. */
static enum step stray(struct json_lexer *l, unsigned char c, struct error *err)
{
    error_set(err, SR_EINVAL, "JSON parse error, stray '%.*s'", (int)l->token_len, l->token);
    forget(l, RECOVERY);
    return is_structural(c) ? AGAIN : TAKEN;
}

/* Wrong, but its end is known: the rest of the document is skipped. Told once per document. */
static void refuse(struct json_lexer *l, struct error *err, const char *sentence)
{
    if (!l->discard)
        error_set(err, SR_EINVAL, "%s", sentence);
    l->discard = true;
}

static void refuse_token(struct json_lexer *l, struct error *err, const char *what)
{
    char sentence[128];
    snprintf(sentence, sizeof(sentence), "JSON parse error, %s '%.*s'", what, (int)l->token_len,
             l->token);
    refuse(l, err, sentence);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static enum step token_done(struct json_lexer *l, enum step how, struct error *err)
{
    l->state = START;
    if (++l->tokens > JSON_MAX_TOKENS)
        refuse(l, err, "JSON token count limit exceeded");
    return how;
}

static enum step structural(struct json_lexer *l, char c, struct error *err)
{
    l->braces += (c == '{') - (c == '}');
    l->brackets += (c == '[') - (c == ']');
    l->objects += c == '{';
    l->lists += c == '[';
    l->colons += c == ':';
    if (l->braces + l->brackets > JSON_MAX_DEPTH)
        refuse(l, err, "JSON nesting depth limit exceeded");
    return token_done(l, TAKEN, err);
}

static enum step begin(struct json_lexer *l, unsigned char c, struct error *err)
{
    l->token_len = 0;
    l->magnitude = 0;
    l->too_large = l->fraction = false;
    if (strchr(" \t\r\n", c) && c)
        return TAKEN;
    l->token[l->token_len++] = (char)c;
    if (is_structural(c))
        return structural(l, (char)c, err);
    if (c == '"')
        l->state = STRING;
    else if (c >= 'a' && c <= 'z')
        l->state = KEYWORD;
    else if (c == '-')
        l->state = MINUS;
    else if (c == '0')
        l->state = ZERO;
    else if (c >= '1' && c <= '9')
        l->state = DIGITS, l->magnitude = c - '0';
    else
        return stray(l, c, err);
    return TAKEN;
}

static enum step end_keyword(struct json_lexer *l, struct error *err)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (l->token_len == strlen(words[i]) && !memcmp(l->token, words[i], l->token_len))
            return token_done(l, AGAIN, err);
    refuse_token(l, err, "invalid keyword");
    return token_done(l, AGAIN, err);
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static void integer_digit(struct json_lexer *l, unsigned char c)
{
    l->too_large |= mul_overflow64(l->magnitude, 10, &l->magnitude) ||
                    add_overflow64(l->magnitude, c - '0', &l->magnitude);
}

static enum step end_number(struct json_lexer *l, struct error *err)
{
    bool minus = l->token[0] == '-';
    while (!isdigit((unsigned char)l->token[l->token_len - 1])) /* what ended the number */
        l->token_len--;
    if (!l->fraction && (l->too_large || (minus && l->magnitude > (uint64_t)INT64_MAX + 1)))
        refuse_token(l, err, "integer out of range");
    return token_done(l, AGAIN, err);
}

static enum step number(struct json_lexer *l, unsigned char c, struct error *err)
{
    bool digit = c >= '0' && c <= '9';
    int next = -1;
    switch (l->state) {
    case MINUS:
        next = !digit ? -1 : c == '0' ? ZERO : DIGITS;
        break;
    case ZERO:
        if (digit)
            return stray(l, c, err);
        break;
    case DIGITS:
        next = digit ? DIGITS : -1;
        break;
    case POINT:
    case FRACTION:
        next = digit ? FRACTION : -1;
        break;
    case EXPONENT:
        next = c == '+' || c == '-' ? EXPONENT_SIGN : digit ? EXPONENT_DIGITS : -1;
        break;
    default:
        next = digit ? EXPONENT_DIGITS : -1;
    }
    if (next < 0 && (l->state == ZERO || l->state == DIGITS) && c == '.')
        next = POINT;
    bool whole = l->state == ZERO || l->state == DIGITS || l->state == FRACTION;
    if (next < 0 && whole && (c == 'e' || c == 'E'))
        next = EXPONENT;
    if (next < 0)
        return whole || l->state == EXPONENT_DIGITS ? end_number(l, err) : stray(l, c, err);
    l->fraction |= next != ZERO && next != DIGITS;
    if (!l->fraction)
        integer_digit(l, c);
    l->state = next;
    return TAKEN;
}

/* ---- Strings --------------------------------------------------------------------------------- */

/* First byte of a longer UTF-8 sequence (Unicode, table 3-7). */
static bool utf8_begin(struct json_lexer *l, unsigned char c)
{
    if (c < 0xc2 || c > 0xf4)
        return false;
    l->utf8_left = 1 + (c >= 0xe0) + (c >= 0xf0);
    l->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    l->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    l->state = UTF8;
    return true;
}

static enum step utf8(struct json_lexer *l, unsigned char c, struct error *err)
{
    if (c < l->utf8_low || c > l->utf8_high)
        return stray(l, c, err);
    l->utf8_low = 0x80;
    l->utf8_high = 0xbf;
    if (!--l->utf8_left)
        l->state = STRING;
    return TAKEN;
}

static void bad_escape(struct json_lexer *l, struct error *err, unsigned unit)
{
    char sentence[80];
    snprintf(sentence, sizeof(sentence),
             "JSON parse error, \\u%04x is not a valid Unicode character", unit);
    refuse(l, err, sentence);
}

/* A \uXXXX is complete. */
static enum step escape_unit(struct json_lexer *l, struct error *err)
{
    unsigned unit = l->unit, high = l->high_unit;
    bool is_high = unit >= 0xd800 && unit < 0xdc00, is_low = unit >= 0xdc00 && unit < 0xe000;
    l->state = STRING;
    l->high_unit = is_high && !high ? unit : 0;
    if (!unit || (is_low && !high))
        bad_escape(l, err, unit);
    else if (high && !is_low)
        bad_escape(l, err, high);
    else if (high)
        l->pair = 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
    return TAKEN;
}

static enum step hex(struct json_lexer *l, unsigned char c, struct error *err)
{
    unsigned lower = c | 0x20u;
    if (c >= '0' && c <= '9')
        l->unit = l->unit << 4 | (c - '0');
    else if (lower >= 'a' && lower <= 'f')
        l->unit = l->unit << 4 | (lower - 'a' + 10);
    else
        return stray(l, c, err);
    return --l->hex_left ? TAKEN : escape_unit(l, err);
}

static enum step string(struct json_lexer *l, unsigned char c, struct error *err)
{
    if (l->high_unit && c != '\\') {
        bad_escape(l, err, l->high_unit);
        l->high_unit = 0;
    }
    if (c == '"')
        return token_done(l, TAKEN, err);
    if (c == '\\')
        l->state = ESCAPE;
    else if (c < 0x20 || (c >= 0x80 && !utf8_begin(l, c)))
        return stray(l, c, err);
    return TAKEN;
}

static enum step escape(struct json_lexer *l, unsigned char c, struct error *err)
{
    if (c == 'u') {
        l->hex_left = 4;
        l->unit = 0;
        l->state = HEX;
        return TAKEN;
    }
    if (!c || !strchr("\"\\/bfnrt", c))
        return stray(l, c, err);
    if (l->high_unit)
        bad_escape(l, err, l->high_unit);
    l->high_unit = 0;
    l->state = STRING;
    return TAKEN;
}

/* ---- The machine ----------------------------------------------------------------------------- */

static enum step recovery(struct json_lexer *l, unsigned char c)
{
    if (is_break(c) || is_structural(c))
        l->state = START;
    return is_structural(c) ? AGAIN : TAKEN;
}

static enum step step(struct json_lexer *l, unsigned char c, struct error *err)
{
    bool token = l->state != START && l->state != RECOVERY;
    if (token && l->state != KEYWORD && l->token_len < sizeof(l->token))
        l->token[l->token_len++] = (char)c;
    switch (l->state) {
    case START:
        return begin(l, c, err);
    case RECOVERY:
        return recovery(l, c);
    case KEYWORD:
        if (!((c | 0x20u) >= 'a' && (c | 0x20u) <= 'z'))
            return end_keyword(l, err);
        if (l->token_len < sizeof(l->token))
            l->token[l->token_len++] = (char)c;
        return TAKEN;
    case STRING:
        return string(l, c, err);
    case ESCAPE:
        return escape(l, c, err);
    case HEX:
        return hex(l, c, err);
    case UTF8:
        return utf8(l, c, err);
    default:
        return number(l, c, err);
    }
}

static int grow(struct json_lexer *l)
{
    size_t room = l->room ? l->room * 2 : 256;
    char *text = sr_malloc(room);
    if (!text)
        return SR_ENOMEM;
    if (l->len)
        memcpy(text, l->text, l->len);
    sr_free(l->text);
    l->text = text;
    l->room = room;
    return 0;
}

/* The byte belongs to the document (there is always room for a NUL behind it). */
static void keep(struct json_lexer *l, char c, struct error *err)
{
    if (l->discard)
        return;
    if (l->len == JSON_MAX_BYTES) {
        refuse(l, err, "JSON token size limit exceeded");
    } else if (l->len + 1 >= l->room && grow(l)) {
        refuse(l, err, sr_strerror(SR_ENOMEM));
    } else {
        l->text[l->len++] = c;
        l->text[l->len] = 0;
    }
}

/* json-c decodes surrogate pairs, but takes some of what comes out (U+1D800, say) for surrogates
 * again: so it gets the character itself for the 12 bytes that were just kept. */
static void keep_pair(struct json_lexer *l)
{
    uint32_t c = l->pair;
    l->pair = 0;
    if (!c || l->discard)
        return;
    char utf8[] = {(char)(0xf0 | c >> 18), (char)(0x80 | (c >> 12 & 0x3f)),
                   (char)(0x80 | (c >> 6 & 0x3f)), (char)(0x80 | (c & 0x3f)), 0};
    l->len -= 12;
    memcpy(l->text + l->len, utf8, sizeof(utf8));
    l->len += 4;
}

static bool complete(const struct json_lexer *l)
{
    bool open = (l->braces > 0 || l->brackets > 0) && l->braces >= 0 && l->brackets >= 0;
    return l->state == START && l->tokens && !open;
}

/* Between tokens: hand over a complete document. */
static void finish(struct json_lexer *l, struct value **done, struct error *err)
{
    if (!complete(l))
        return;
    if (!l->discard)
        *done = json_tree(l, err);
    forget(l, START);
}

size_t json_feed(struct json_lexer *l, const char *bytes, size_t n, struct value **done,
                 struct error *err)
{
    *done = NULL;
    for (size_t i = 0; i < n;) {
        enum step s = step(l, (unsigned char)bytes[i], err);
        bool between = !l->tokens && (l->state == START || l->state == RECOVERY);
        if (s == TAKEN && !between)
            keep(l, bytes[i], err);
        keep_pair(l);
        i += s == TAKEN;
        finish(l, done, err);
        if (*done || err->set)
            return i;
    }
    return n;
}

bool json_feed_end(struct json_lexer *l, struct value **done, struct error *err)
{
    *done = NULL;
    if (l->state != RECOVERY && (l->tokens || l->state != START) && !l->discard) {
        if (l->state != START)
            step(l, 0, err); /* ends a number or a keyword; strings do not like it */
        finish(l, done, err);
        if (!*done)
            error_set(err, SR_EINVAL, "JSON parse error, premature EOI");
    }
    json_lexer_free(l);
    return *done || err->set;
}

/* Nothing but blanks? */
static bool only_blanks(const char *text, size_t len)
{
    struct json_lexer l;
    struct value *v;
    struct error err = {0};
    json_lexer_init(&l);
    json_feed(&l, text, len, &v, &err);
    bool more = v || err.set || json_feed_end(&l, &v, &err);
    value_free(v);
    json_lexer_free(&l);
    return !more;
}

struct value *json_parse(const char *text, size_t len, struct error *err)
{
    struct json_lexer l;
    struct value *v = NULL;
    json_lexer_init(&l);
    size_t used = json_feed(&l, text, len, &v, err);
    if (!v && !err->set && !json_feed_end(&l, &v, err))
        error_set(err, SR_EINVAL, "Expecting a JSON value");
    json_lexer_free(&l);
    if (v && !only_blanks(text + used, len - used)) {
        value_free(v);
        v = NULL;
        error_set(err, SR_EINVAL, "Expecting at most one JSON value");
    }
    return v;
}
