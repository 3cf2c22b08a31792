// As much of react-native's types as the package and the types of its native modules ask for.
export const Platform: { OS: 'ios' | 'android' | 'macos' | 'windows' | 'web' };
export interface TurboModule {}
export interface EmitterSubscription {
  remove(): void;
}
