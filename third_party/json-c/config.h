// SPDX-License-Identifier: BSD-2-Clause
/*
 * json-c, configured by hand for newlib and glibc alike: no files, no locale, no threads. random_seed.c
 * is left out; control/json.c supplies json_c_get_random_seed() from our own source of entropy.
 */
#ifndef STRONGROOM_JSON_C_CONFIG_H
#define STRONGROOM_JSON_C_CONFIG_H

#include "json_config.h"

#define STDC_HEADERS       1
#define HAVE_INTTYPES_H    1
#define HAVE_LIMITS_H      1
#define HAVE_STDARG_H      1
#define HAVE_STDINT_H      1
#define HAVE_STDLIB_H      1
#define HAVE_STRING_H      1
#define HAVE_STRINGS_H     1
#define HAVE_SYS_TYPES_H   1
#define HAVE_UNISTD_H      1
#define HAVE_FCNTL_H       1
#define HAVE_SYS_STAT_H    1

#define HAVE_DECL_INFINITY 1
#define HAVE_DECL_ISINF    1
#define HAVE_DECL_ISNAN    1
#define HAVE_DECL_NAN      1
#define HAVE_REALLOC       1
#define HAVE_SNPRINTF      1
#define HAVE_STRCASECMP    1
#define HAVE_STRDUP        1
#define HAVE_STRERROR      1
#define HAVE_STRNCASECMP   1
#define HAVE_STRTOLL       1
#define HAVE_STRTOULL      1
#define HAVE_VASPRINTF     1
#define HAVE_VPRINTF       1
#define HAVE_VSNPRINTF     1

#define SIZEOF_INT         __SIZEOF_INT__
#define SIZEOF_INT64_T     8
#define SIZEOF_LONG        __SIZEOF_LONG__
#define SIZEOF_LONG_LONG   __SIZEOF_LONG_LONG__
#define SIZEOF_SIZE_T      __SIZEOF_SIZE_T__
#define SIZEOF_SSIZE_T     __SIZEOF_SIZE_T__

#define PACKAGE_VERSION    "0.16"

#endif
