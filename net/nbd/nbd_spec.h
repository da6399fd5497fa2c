/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NET_NBD_SPEC_H
#define NET_NBD_SPEC_H
/*
 * The NBD protocol on the wire: names and layouts of doc/proto.md (NetworkBlockDevice/nbd), and of
 * its branch extension-ext-header for what is called "extended" here. All integers are big-endian.
 */
#include "kernel/compiler.h"
#include "kernel/endian.h"

/* ---- Handshake: "Newstyle negotiation" ------------------------------------------------------- */

#define NBD_INIT_MAGIC   0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_REP_MAGIC    0x0003e889045565a9ull
#define NBD_MAX_STRING   4096u       /* "Conventions" */
#define NBD_MAX_PAYLOAD  (32u << 20) /* "Size constraints": what every server should take */
#define NBD_EXPORT_PAD   124u        /* zeroes after the reply to EXPORT_NAME */

enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };     /* handshake flags */
enum { NBD_FLAG_C_FIXED_NEWSTYLE = 1, NBD_FLAG_C_NO_ZEROES = 2 }; /* client flags */

struct nbd_greeting {
    be64 init_magic, option_magic;
    be16 flags;
};
static_assert(sizeof(struct nbd_greeting) == 18, "newstyle negotiation");

struct nbd_option_header {
    be64 magic;
    be32 option, len;
};
static_assert(sizeof(struct nbd_option_header) == 16, "fixed newstyle negotiation");

struct nbd_option_reply {
    be64 magic;
    be32 option, type, len;
};
static_assert(sizeof(struct nbd_option_reply) == 20, "fixed newstyle negotiation");

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERR(n) (0x80000000u + (n))
enum nbd_option_reply_type {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP           NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY          NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID         NBD_REP_ERR(3)
#define NBD_REP_ERR_PLATFORM        NBD_REP_ERR(4)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN        NBD_REP_ERR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum nbd_info { NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };

struct nbd_info_export {
    be16 type;
    be64 size;
    be16 flags;
};
static_assert(sizeof(struct nbd_info_export) == 12, "NBD_INFO_EXPORT");

struct nbd_info_block_size {
    be16 type;
    be32 minimum, preferred, maximum;
};
static_assert(sizeof(struct nbd_info_block_size) == 14, "NBD_INFO_BLOCK_SIZE");

struct nbd_export_name_reply {
    be64 size;
    be16 flags;
};
static_assert(sizeof(struct nbd_export_name_reply) == 10, "NBD_OPT_EXPORT_NAME");

enum nbd_transmission_flags {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_ROTATIONAL = 1 << 4,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_RESIZE = 1 << 9,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

/* ---- Transmission ---------------------------------------------------------------------------- */

#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu

enum nbd_cmd {
    NBD_CMD_READ,
    NBD_CMD_WRITE,
    NBD_CMD_DISC,
    NBD_CMD_FLUSH,
    NBD_CMD_TRIM,
    NBD_CMD_CACHE,
    NBD_CMD_WRITE_ZEROES,
    NBD_CMD_BLOCK_STATUS,
    NBD_CMDS
};
enum nbd_cmd_flags {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

/* Both kinds of request have the same first 24 bytes; cookies are opaque, so never swapped. */
struct nbd_request_head {
    be32 magic;
    be16 flags, type;
    uint8_t cookie[8];
    be64 offset;
};
struct nbd_compact_request {
    struct nbd_request_head head;
    be32 len;
};
static_assert(sizeof(struct nbd_compact_request) == 28, "compact request message");

struct nbd_extended_request {
    struct nbd_request_head head;
    be64 len;
};
static_assert(sizeof(struct nbd_extended_request) == 32, "extended request message");

struct nbd_simple_reply {
    be32 magic, error;
    uint8_t cookie[8];
};
static_assert(sizeof(struct nbd_simple_reply) == 16, "simple reply message");

struct nbd_structured_reply {
    be32 magic;
    be16 flags, type;
    uint8_t cookie[8];
    be32 len;
};
static_assert(sizeof(struct nbd_structured_reply) == 20, "structured reply chunk message");

struct nbd_extended_reply {
    be32 magic;
    be16 flags, type;
    uint8_t cookie[8];
    be64 offset; /* of the request */
    be64 len;
};
static_assert(sizeof(struct nbd_extended_reply) == 32, "extended reply chunk message");

enum { NBD_REPLY_FLAG_DONE = 1 };
enum nbd_reply_type {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR = 0x8001,
    NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002,
};

struct nbd_chunk_hole { /* payload of OFFSET_HOLE; OFFSET_DATA: the offset, then the data */
    be64 offset;
    be32 len;
};
static_assert(sizeof(struct nbd_chunk_hole) == 12, "NBD_REPLY_TYPE_OFFSET_HOLE");

struct nbd_chunk_error { /* then the message; ERROR_OFFSET: then the offset */
    be32 error;
    be16 message_len;
};
static_assert(sizeof(struct nbd_chunk_error) == 6, "NBD_REPLY_TYPE_ERROR");

struct nbd_chunk_status { /* payload of BLOCK_STATUS: then the extents */
    be32 context;
};
struct nbd_extent {
    be32 len, flags;
};
static_assert(sizeof(struct nbd_extent) == 8, "NBD_REPLY_TYPE_BLOCK_STATUS");

struct nbd_chunk_status_ext { /* payload of BLOCK_STATUS_EXT: then the extents */
    be32 context, count;
};
struct nbd_extent_ext {
    be64 len, flags;
};
static_assert(sizeof(struct nbd_chunk_status_ext) == 8, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT");
static_assert(sizeof(struct nbd_extent_ext) == 16, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT");

struct nbd_status_payload { /* request BLOCK_STATUS with PAYLOAD_LEN: then 32-bit context ids */
    be64 len;
};

enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 }; /* "base:allocation" */

enum nbd_errno {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};
#endif
