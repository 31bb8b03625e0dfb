// The results of calls that tests meet, with CUDA's numbers and words.

#pragma once

namespace fake {

using Result = int;  // CUresult

inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kOutOfMemory = 2;
inline constexpr Result kNotInitialized = 3;
inline constexpr Result kDeinitialized = 4;
inline constexpr Result kInvalidDevice = 101;
inline constexpr Result kInvalidContext = 201;
inline constexpr Result kInvalidHandle = 400;
inline constexpr Result kNotReady = 600;
inline constexpr Result kIllegalAddress = 700;
inline constexpr Result kAlreadyRegistered = 712;
inline constexpr Result kNotRegistered = 713;

// nullptr if the code is unknown.
const char* error_name(Result code);
const char* error_text(Result code);

}  // namespace fake
